"""Declarations of losses: what they refuse."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from assent.config.losses import PREFERENCE_LOSSES, preference_loss_declaration
from assent.errors import ConfigError


def test_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean sigmoid"):
        preference_loss_declaration("sigmod")
    assert preference_loss_declaration("sigmoid").name == "sigmoid"


def test_hyperparameters_are_checked() -> None:
    sigmoid = PREFERENCE_LOSSES["sigmoid"]
    assert sigmoid.resolve({}) == {"beta": 0.1}
    assert sigmoid.resolve({"beta": 2}) == {"beta": 2.0}
    with pytest.raises(ConfigError, match="did you mean beta"):
        sigmoid.resolve({"betta": 0.1})
    for wrong in (0.0, -1.0, math.inf, math.nan, True, "0.1"):
        with pytest.raises(ConfigError, match="beta of loss 'sigmoid' is out of range"):
            sigmoid.resolve({"beta": wrong})  # type: ignore[dict-item]


def test_declarations_import_no_torch() -> None:
    code = "import sys, assent.config.losses; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
