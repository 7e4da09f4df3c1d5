"""Where the tokens of the training data are kept. Torch-free."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from assent.config.options import StageDefaults


class StorageOptions(StageDefaults):
    """Where the tokens of the training data are kept."""

    data_storage: Literal["auto", "memory", "mapped"] = "auto"
    """Where the tokens of the training data are kept. memory: in memory. mapped: in a file of the cache (ASSENT_CACHE),
    from which each step reads its rows; the numbers are the same. auto: mapped from 256 MB of data on."""

    @property
    def data_may_be_mapped(self) -> bool:
        """Whether no other option needs all rows in memory."""
        return not self._needs_all_rows()

    def _needs_all_rows(self) -> list[str]:
        needs = {"eval_fraction": self.eval_fraction is not None, "bootstrap": getattr(self, "bootstrap", False)}
        needs["supervision process"] = getattr(self, "supervision", "outcome") == "process"
        return [name for name, needed in needs.items() if needed]

    @model_validator(mode="after")
    def _mapped_rows_suffice(self) -> Self:
        if self.data_storage == "mapped" and (needing := self._needs_all_rows()):
            raise ValueError(f"{needing[0]} needs all rows in memory: leave it out, or leave data_storage mapped out")
        return self
