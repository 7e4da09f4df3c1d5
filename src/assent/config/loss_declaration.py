"""How a loss is declared: its name, its hyperparameters with their ranges, and what it needs and accepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from assent.config.foreign import LOSSES
from assent.errors import ConfigError

SMALLEST, LARGEST = 1e-9, 1e9
"""Bounds of a hyperparameter's magnitude, except for 0. Beyond them losses overflow or vanish in float32."""


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """A number with its range, bounds included unless `open`. Its magnitude is 0, or from `SMALLEST` to `LARGEST`.

    only_with: (name, choice) of another hyperparameter. Without that choice this one has no effect and is refused.
    """

    default: float
    minimum: float
    maximum: float
    help: str
    open: bool = False
    only_with: tuple[str, str] | None = None

    def accepts(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if value != 0 and not SMALLEST <= abs(value) <= LARGEST:  # NaN too
            return False
        return self.minimum < value < self.maximum if self.open else self.minimum <= value <= self.maximum

    @property
    def range(self) -> str:
        left, right = ("(", ")") if self.open else ("[", "]")
        magnitude = f", with a magnitude from {SMALLEST:g} to {LARGEST:g}" if math.isinf(self.maximum) else ""
        return f"a number in {left}{self.minimum:g}, {self.maximum:g}{right}{magnitude}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A hyperparameter that takes one of several names."""

    default: str
    choices: tuple[str, ...]
    help: str
    only_with: tuple[str, str] | None = None

    def accepts(self, value: object) -> bool:
        return value in self.choices

    @property
    def range(self) -> str:
        return f"one of {', '.join(self.choices)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossDeclaration:
    """What is known about a loss without computing it. The functions take the hyperparameters as keywords.

    accepts             optional inputs of a row that it can use: `margin`, `chosen_probability`; for rankings
                        `tied` (a tie has a likelihood of its own) and `many` (more than two completions of a prompt);
                        for thumbs `kl_baseline`, which is then needed. Any other input is refused
    row_weights         whether each value belongs to a row, so that rows can have weights
    scope               `row`: a row's value depends on that row alone; `step`: on the whole step
    zero_margin_value   its value where policy and reference agree (law 5), without the NLL term; for losses without a
                        reference, where both completions are equally likely. nan: unknown (a third party's loss)
    zero_margin_gradient  signs of its derivatives there with respect to the log-probabilities of the chosen and the
                        rejected completion, with default hyperparameters
    nll_weight          weight of the chosen completion's negative log-likelihood per token, which is added
    max_log_ratio       largest |log-ratio| at which it is finite in float32; beyond that it raises an error.
                        None: no limit (bounded growth)
    """

    name: str
    summary: str
    hyperparameters: Mapping[str, Hyperparameter | Choice] = field(default_factory=dict)
    paper: str
    equation: str
    needs_reference: bool
    uses_lengths: bool = False
    accepts: frozenset[str] = frozenset()
    row_weights: bool = True
    scope: Literal["row", "step"] = "row"
    zero_margin_value: Callable[..., float]
    zero_margin_gradient: tuple[int, int] = (-1, 1)
    nll_weight: Callable[..., float] = lambda **_: 0.0
    max_log_ratio: Callable[..., float | None] = lambda **_: None

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Checks the given hyperparameters, and returns all that have an effect.

        ConfigError for an unknown name, a value out of range, or one without effect given the others.
        """
        for name, value in given.items():
            if name not in self.hyperparameters:
                raise unknown(f"loss {self.name!r} has no hyperparameter {name!r}", name, self.hyperparameters)
            known = self.hyperparameters[name]
            if not known.accepts(value):
                raise ConfigError(f"{name} of loss {self.name!r} is out of range", got=value, expected=known.range)
        values: dict[str, Any] = {
            name: float(given.get(name, known.default))
            if isinstance(known, Hyperparameter)
            else given.get(name, known.default)
            for name, known in self.hyperparameters.items()
        }
        for name, known in self.hyperparameters.items():
            if known.only_with is None:
                continue
            other, choice = known.only_with
            if values[other] == choice:
                continue
            if name in given:
                what = f"{name} of loss {self.name!r} has no effect with {other} {values[other]}"
                fix = f"set {other} to {choice}, or leave {name} out"
                raise ConfigError(what, expected=f"{other} {choice}", fix=fix)
            del values[name]
        return values


def unknown(what: str, name: str, known: Mapping[str, object]) -> ConfigError:
    """The error for an unknown name. It lists the known names and suggests the nearest."""
    near = [LOSSES[name]] if LOSSES.get(name) in known else get_close_matches(name, known, n=1)
    fix = f"did you mean {near[0]}?" if near else None
    return ConfigError(what, expected=", ".join(sorted(known)) or "none", fix=fix)
