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
    accepts             the rows' optional inputs that it can use: `margin`, `chosen_probability`, `tied` (a tie has a
                        probability of its own), `many` (more than two completions of a prompt). Any other is refused
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
    accepts: frozenset[str] = frozenset()

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


def ranking_loss_declaration(name: str) -> LossDeclaration:
    """The declaration of a loss of rankings; ConfigError that names the nearest where there is none."""
    if name not in RANKING_LOSSES:
        raise _unknown(f"no ranking loss {name!r}", name, RANKING_LOSSES)
    return RANKING_LOSSES[name]


def reward_loss_declaration(name: str) -> LossDeclaration:
    """The declaration of a loss of scores, of rankings or single completions; ConfigError that names the nearest."""
    known = {**RANKING_LOSSES, **SCORE_LOSSES}
    if name not in known:
        raise _unknown(f"no loss {name!r} of scores", name, known)
    return known[name]


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
        accepts=frozenset({"margin", "chosen_probability"}),
    ),
)

PREFERENCE_LOSSES: dict[str, LossDeclaration] = {loss.name: loss for loss in _DECLARED}
"""Losses of comparisons, by name."""

_LABEL_SMOOTHING = Hyperparameter(0.0, 0.0, 0.5, "Probability that a label is turned round; at 1/2 nothing is learned.")

_RANKING = (
    LossDeclaration(
        name="bradley_terry",
        summary="Comparisons: the better of two scores higher; with margins and soft labels where the data has them.",
        hyperparameters={"label_smoothing": _LABEL_SMOOTHING},
        paper="Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1; margin: Touvron et al. 2023, "
        "arXiv:2307.09288, eq. 2",
        equation="-log sigma(s_chosen - s_rejected - margin)",
        needs_reference=False,
        zero_margin_value=lambda **_: math.log(2.0),
        accepts=frozenset({"margin", "chosen_probability"}),
    ),
    LossDeclaration(
        name="all_pairs",
        summary="Every ordered pair of a ranking by Bradley–Terry; a ranking's pairs together weigh as one.",
        hyperparameters={"label_smoothing": _LABEL_SMOOTHING},
        paper="Ouyang et al. 2022, arXiv:2203.02155, eq. 1",
        equation="mean over pairs i above j of -log sigma(s_i - s_j)",
        needs_reference=False,
        zero_margin_value=lambda **_: math.log(2.0),
        accepts=frozenset({"many"}),
    ),
    LossDeclaration(
        name="plackett_luce",
        summary="A whole ranking: the best of all is drawn first, then the best of the rest; ties by Efron.",
        paper="Luce 1959; Plackett 1975; DPO: Rafailov et al. 2023, arXiv:2305.18290, appendix A.3; ties: Efron 1977",
        equation="sum over k of log(sum over those not yet placed of exp s) - s_k",
        needs_reference=False,
        zero_margin_value=lambda num_completions=2, **_: math.lgamma(num_completions + 1),
        accepts=frozenset({"many", "tied"}),
    ),
    LossDeclaration(
        name="davidson",
        summary="All pairs of a ranking, a tie being an outcome of its own; nu is the odds of a tie to a win of one "
        "of two equals.",
        hyperparameters={
            "tie_strength": Hyperparameter(1.0, 0.0, math.inf, "nu: how likely ties are between equals.", open=True)
        },
        paper="Davidson 1970, JASA 65",
        equation="P(i above j) = e^s_i / (e^s_i + e^s_j + nu e^((s_i + s_j)/2)), the rest is a tie",
        needs_reference=False,
        zero_margin_value=lambda tie_strength=1.0, **_: math.log(2.0 + tie_strength),
        accepts=frozenset({"many", "tied"}),
    ),
    LossDeclaration(
        name="rao_kupper",
        summary="All pairs of a ranking, a tie being a difference below the threshold log theta.",
        hyperparameters={
            "tie_threshold": Hyperparameter(
                1.5, 1.0, math.inf, "theta: a win needs odds of about so much; ties otherwise.", open=True
            )
        },
        paper="Rao and Kupper 1967, JASA 62",
        equation="P(i above j) = e^s_i / (e^s_i + theta e^s_j), P(tie) = (theta^2 - 1) P(i above j) P(j above i)",
        needs_reference=False,
        zero_margin_value=lambda tie_threshold=1.5, **_: math.log(1.0 + tie_threshold),
        accepts=frozenset({"many", "tied"}),
    ),
)

RANKING_LOSSES: dict[str, LossDeclaration] = {loss.name: loss for loss in _RANKING}
"""Losses of rankings of K completions, by name. `zero_margin_value` also takes `num_completions`; without ties."""

_SCORE = (
    LossDeclaration(
        name="mse",
        summary="Regression: the score of a completion is its rating.",
        paper="least squares",
        equation="(s - label)^2",
        needs_reference=False,
        zero_margin_value=lambda label=0.0, **_: label**2,
    ),
    LossDeclaration(
        name="bce",
        summary="Classification: sigma(score) is the probability that a completion (or a step) is good.",
        paper="logistic regression; steps: Lightman et al. 2023, arXiv:2305.20050",
        equation="-label log sigma(s) - (1 - label) log sigma(-s)",
        needs_reference=False,
        zero_margin_value=lambda **_: math.log(2.0),
    ),
)

SCORE_LOSSES: dict[str, LossDeclaration] = {loss.name: loss for loss in _SCORE}
"""Losses of single completions with a label, by name."""
