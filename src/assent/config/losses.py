"""Declarations of the losses, torch-free. `--help`, validation, the step-0 gate and the documentation use them.

`objectives/` implements each loss under the same name, and a test compares the two. A third party's loss is named
`module:function`; `objectives/pairs.py` says what the function receives. Its attribute `declaration` is a
LossDeclaration. Without one, its keywords with a number as the default are its hyperparameters. It then needs a
reference, receives lengths, and refuses soft labels and margins; its value at zero margin is unknown.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from assent.config.functions import import_function
from assent.config.loss_declaration import Choice, Hyperparameter, LossDeclaration, unknown
from assent.config.pair_losses import DECLARED_PAIRS
from assent.config.ranking_losses import DECLARED_RANKINGS, DECLARED_SCORES
from assent.config.thumbs_losses import DECLARED_THUMBS
from assent.errors import ConfigError

__all__ = [
    "PREFERENCE_LOSSES",
    "RANKING_LOSSES",
    "SCORE_LOSSES",
    "THUMBS_LOSSES",
    "Choice",
    "Hyperparameter",
    "LossDeclaration",
    "preference_loss_declaration",
    "ranking_loss_declaration",
    "reward_loss_declaration",
    "thumbs_loss_declaration",
]

PREFERENCE_LOSSES: dict[str, LossDeclaration] = {loss.name: loss for loss in DECLARED_PAIRS}
"""Losses of comparisons, by name."""

THUMBS_LOSSES: dict[str, LossDeclaration] = {loss.name: loss for loss in DECLARED_THUMBS}
"""Losses of single completions with a thumb up or down, by name."""

RANKING_LOSSES: dict[str, LossDeclaration] = {loss.name: loss for loss in DECLARED_RANKINGS}
"""Losses of rankings of K completions, by name. `zero_margin_value` also takes `num_completions`; without ties."""

SCORE_LOSSES: dict[str, LossDeclaration] = {loss.name: loss for loss in DECLARED_SCORES}
"""Losses of single completions with a label, by name."""


def preference_loss_declaration(name: str) -> LossDeclaration:
    """The declaration of a pair loss. ConfigError for an unknown name, with the nearest known one."""
    if ":" in name:
        return _declaration_of(import_function(name, what="loss"), name)
    if name in THUMBS_LOSSES:
        raise ConfigError(f"{name} is a loss for thumbs, not for comparisons", fix="use `assent kto`")
    if name not in PREFERENCE_LOSSES:
        raise unknown(f"no preference loss {name!r}", name, PREFERENCE_LOSSES)
    return PREFERENCE_LOSSES[name]


def thumbs_loss_declaration(name: str) -> LossDeclaration:
    """The declaration of a loss for thumbs. ConfigError for an unknown name, with the nearest known one."""
    if name in PREFERENCE_LOSSES:
        raise ConfigError(f"{name} is a loss for comparisons, not for thumbs", fix="use `assent dpo`")
    if name not in THUMBS_LOSSES:
        raise unknown(f"no thumbs loss {name!r}", name, THUMBS_LOSSES)
    return THUMBS_LOSSES[name]


def ranking_loss_declaration(name: str) -> LossDeclaration:
    """The declaration of a ranking loss. ConfigError for an unknown name, with the nearest known one."""
    if name not in RANKING_LOSSES:
        raise unknown(f"no ranking loss {name!r}", name, RANKING_LOSSES)
    return RANKING_LOSSES[name]


def reward_loss_declaration(name: str) -> LossDeclaration:
    """The declaration of a reward model's loss, for rankings or single completions. ConfigError as above."""
    known = {**RANKING_LOSSES, **SCORE_LOSSES}
    if name not in known:
        raise unknown(f"no reward loss {name!r}", name, known)
    return known[name]


def _declaration_of(function: Callable[..., Any], name: str) -> LossDeclaration:
    declared = getattr(function, "declaration", None)
    if isinstance(declared, LossDeclaration):
        return replace(declared, name=name)
    if declared is not None:
        raise ConfigError(f"the declaration of loss {name} is not a LossDeclaration", got=type(declared).__name__,
                          expected="an assent.config.losses.LossDeclaration (docs/extending.md)")  # fmt: skip
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return LossDeclaration(
        name=name,
        summary=(inspect.getdoc(function) or "a third party's loss").partition("\n")[0],
        hyperparameters={
            p.name: Hyperparameter(float(p.default), -math.inf, math.inf, "")
            for p in parameters
            if isinstance(p.default, int | float) and not isinstance(p.default, bool)
        },
        paper="not declared",
        equation=name,
        needs_reference=True,
        uses_lengths=True,
        zero_margin_value=lambda **_: math.nan,
    )
