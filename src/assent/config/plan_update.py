"""Options of `plan --update`. Torch-free."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from assent.config.options import Options

OF_UPDATE = ("run", "logs", "baseline", "up_above")
BESIDE = ("update", "model", "columns", "judge", "safety", "max_fault", "reward", "output")
"""Other options of `plan` that have an effect with --update."""


class UpdateOptions(Options):
    """What the plan of an update reads."""

    update: bool = False
    """Plan an update of a deployed model from its logs, instead of a first training: what the logs are good for, and
    the pipeline file for `assent update`. Needs --run and --logs; --model is then the run's (docs/update.md)."""
    run: str | None = None
    """Folder of the run that trained the released model. Only with --update."""
    logs: str | None = None
    """Logs of the released model: a file or a folder, as `assent monitor` reads them. Only with --update."""
    baseline: str | None = None
    """What the model did at the release, as in `assent monitor`. Default: the run's own samples. Only with --update."""
    up_above: float | None = None
    """A rating above this is a thumb up. Default: 0.5. Only with --update."""

    @model_validator(mode="after")
    def _update_options_belong_together(self) -> Self:
        given = self.model_fields_set
        if not self.update:
            if idle := [name for name in OF_UPDATE if name in given]:
                raise ValueError(f"{', '.join(idle)} has no effect without update: give update, or leave it out")
            return self
        if missing := [name for name in ("run", "logs") if getattr(self, name) is None]:
            raise ValueError(f"update needs {' and '.join(missing)}: say where the released model is, and its logs")
        if idle := sorted(given - {*OF_UPDATE, *BESIDE}):
            raise ValueError(f"{', '.join(idle)} has no effect with update: leave it out")
        return self
