"""Declarations of the losses, torch-free: `--help`, validation, the step-0 gate and the documentation follow from them.

Each is implemented under the same name in `objectives/`; a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from assent.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """A number with its range; the bounds belong to it unless `open`."""

    default: float
    minimum: float
    maximum: float
    help: str
    open: bool = False

    def accepts(self, value: float) -> bool:
        inside = self.minimum < value < self.maximum if self.open else self.minimum <= value <= self.maximum
        return math.isfinite(value) and inside

    @property
    def range(self) -> str:
        left, right = ("(", ")") if self.open else ("[", "]")
        return f"a number in {left}{self.minimum:g}, {self.maximum:g}{right}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossDeclaration:
    """What is known of a loss without computing it.

    scope               `row`: a pair's value depends on that pair alone; `step`: on the whole step
    zero_margin_value   its value where policy and reference agree, as a function of the hyperparameters (law 5)
    max_log_ratio       the largest |log-ratio| at which it is finite in float32; None: every one (bounded growth)
    """

    name: str
    summary: str
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict)
    paper: str
    equation: str
    needs_reference: bool
    uses_lengths: bool = False
    scope: Literal["row", "step"] = "row"
    zero_margin_value: Callable[..., float]
    max_log_ratio: float | None = None

    def resolve(self, given: Mapping[str, float]) -> dict[str, float]:
        """All hyperparameters, the given ones checked. ConfigError for an unknown name or a value out of range."""
        for name, value in given.items():
            if name not in self.hyperparameters:
                raise _unknown(f"loss {self.name!r} has no hyperparameter {name!r}", name, self.hyperparameters)
            known = self.hyperparameters[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not known.accepts(value):
                raise ConfigError(f"{name} of loss {self.name!r} is out of range", got=value, expected=known.range)
        return {name: float(given.get(name, known.default)) for name, known in self.hyperparameters.items()}


def _unknown(what: str, name: str, known: Mapping[str, object]) -> ConfigError:
    near = get_close_matches(name, known, n=1)
    fix = f"did you mean {near[0]}?" if near else None
    return ConfigError(what, expected=", ".join(sorted(known)) or "none", fix=fix)


def preference_loss_declaration(name: str) -> LossDeclaration:
    """The declaration of a loss of comparisons; ConfigError that names the nearest where there is none."""
    if name not in PREFERENCE_LOSSES:
        raise _unknown(f"no preference loss {name!r}", name, PREFERENCE_LOSSES)
    return PREFERENCE_LOSSES[name]


_DECLARED = (
    LossDeclaration(
        name="sigmoid",
        summary="DPO: the Bradley–Terry likelihood of the implicit rewards beta * log(policy / reference).",
        hyperparameters={
            "beta": Hyperparameter(0.1, 0.0, math.inf, "Strength of the pull to the reference.", open=True),
        },
        paper="Rafailov et al. 2023, arXiv:2305.18290 (offset by a margin: Amini et al. 2024, arXiv:2402.10571)",
        equation="-log sigma(beta * (log-ratio of chosen - log-ratio of rejected) - margin)",
        needs_reference=True,
        zero_margin_value=lambda **_: math.log(2.0),
    ),
)

PREFERENCE_LOSSES: dict[str, LossDeclaration] = {loss.name: loss for loss in _DECLARED}
"""Losses of comparisons, by name."""
