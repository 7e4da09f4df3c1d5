"""The option that names a reference. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from assent.errors import ConfigError


def _is_a_model(name: str) -> str:
    """The name. ConfigError for `none`: as a hub's name it would only be looked for in vain."""
    if name.lower() in ("none", "null") and not Path(name).is_dir():
        raise ConfigError(
            "this names no model",
            got=name,
            expected="a folder or a hub name; if it is left out, the reference is the policy as it starts",
            fix="leave reference out. To train without one, choose a loss of dpo that takes none (loss_type orpo, "
            "simpo or cpo); in an online command, kl_coef 0 leaves the KL penalty out",
        )
    return name


ReferenceModel = Annotated[str, AfterValidator(_is_a_model)]
"""A folder or a hub name."""
