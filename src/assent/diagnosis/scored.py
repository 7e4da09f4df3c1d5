"""What a reward model is asked, and what was measured of it. Torch-free: `assent.commands.doctor_reward` measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from assent.diagnosis.case import Case
from assent.diagnosis.rule import NotChecked
from assent.statistics.small import SURE, Interval, correlation, fmean, mean_interval, normal_quantile, variance, wilson

LEAST = 50
"""Prompts with a pair, below which nothing is said of how a reward model ranks."""
FEWEST = 8
"""Prompts below which nothing is said of how it reads."""
Values = Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One figure for each of P prompts (P,), in the same order.

    given                    whether the pairs are the user's; built-in ones say nothing of how it ranks
    better, worse            scores of the two answers
    better_characters, worse_characters   their lengths
    empty                    of an answer without a word
    doubled                  of the better answer, said twice
    open_ended               of the better answer without its end token
    retouched                of the better answer with blanks doubled and its last mark taken away or added
    other_better, other_worse             of the two answers after another row's prompt
    right_padded, left_padded             how far the better answers' scores in a padded batch of transformers are from
                             ours; empty: `unpadded` says why
    unreadable               why plain transformers cannot read a batch; None: it can, or was not asked
    unpadded                 why it was not asked to
    lengths_alone            share of the file's pairs that a model of lengths decides; None: too few pairs to say
    """

    kind: ClassVar[str] = "reward model"
    given: bool
    better: Values
    worse: Values
    better_characters: Values
    worse_characters: Values
    empty: Values = ()
    doubled: Values = ()
    open_ended: Values = ()
    retouched: Values = ()
    other_better: Values = ()
    other_worse: Values = ()
    right_padded: Values = ()
    left_padded: Values = ()
    unreadable: str | None = None
    unpadded: str = "not measured"
    lengths_alone: Interval | None = None

    @property
    def margins(self) -> list[float]:
        return [better - worse for better, worse in zip(self.better, self.worse, strict=True)]

    @property
    def spread(self) -> float:
        """Standard deviation of all scores."""
        return math.sqrt(variance([*self.better, *self.worse]))

    def need_pairs(self) -> list[float]:
        """The margins. Raises NotChecked where there are no pairs of the user's, or too few."""
        if not self.given:
            raise NotChecked("needs held-out comparisons: --data FILE")
        if len(self.better) < LEAST:
            raise NotChecked(f"too few prompts with a pair: {len(self.better)} of {LEAST}")
        return self.margins

    def need(self, name: str) -> Values:
        """A probe's scores. Raises NotChecked where there are too few."""
        values: Values = getattr(self, name)
        if len(values) < FEWEST:
            raise NotChecked(f"too few prompts: {len(values)} of {FEWEST}")
        return values

    def looked_at(self) -> str:
        ranked = f", {right(self.margins).value:.0%} of them ranked right" if self.given and self.better else ""
        alone = "" if self.lengths_alone is None else f" (lengths alone: {self.lengths_alone.value:.0%})"
        return f"the scores of {len(self.better)} pairs{ranked}{alone}"

    def as_dict(self) -> dict[str, Any]:
        every = [*self.better, *self.worse]
        shown: dict[str, Any] = {
            "pairs": len(self.better),
            "pairs_of_the_user": self.given,
            "score_mean": fmean(every) if every else None,
            "score_spread": self.spread if every else None,
        }
        if self.given and self.better:
            shown["accuracy"] = right(self.margins)._asdict()
        if self.lengths_alone is not None:
            shown["lengths_alone"] = self.lengths_alone._asdict()
        names = ("empty", "doubled", "open_ended", "retouched")
        moves = {name: fmean(moved(self, name)) for name in names if getattr(self, name)}
        return {**shown, "moves": moves, "padding": max((*self.right_padded, *self.left_padded), default=None)}


def right(margins: Values, *, confidence: float = 0.95) -> Interval:
    """Share of pairs whose better answer scores higher; equal scores count half."""
    return wilson(sum(0.5 if m == 0 else float(m > 0) for m in margins), len(margins), confidence=confidence)


def moved(found: Scored, name: str) -> list[float]:
    """How far a probe's score is from the better answer's."""
    return [after - before for after, before in zip(getattr(found, name), found.better, strict=True)]


def higher(found: Scored, name: str) -> Interval:
    """Share of prompts whose probe scores higher than the better answer."""
    return right(moved(found, name), confidence=SURE)


def correlation_interval(x: Values, y: Values, *, confidence: float = SURE) -> Interval:
    """Pearson's, with Fisher's interval."""
    value = correlation(x, y)
    if len(x) < 4 or abs(value) >= 1:
        return Interval(value, value if len(x) >= 4 else -1.0, value if len(x) >= 4 else 1.0)
    reach = normal_quantile((1 + confidence) / 2) / math.sqrt(len(x) - 3)
    return Interval(value, math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach))


def overconfidence(margins: Values) -> Interval:
    """Mean of the stated probability of being right minus the share that is right, over pairs."""
    stated = [1 / (1 + math.exp(-min(abs(m), 700.0))) for m in margins]
    actual = [0.5 if m == 0 else float(m > 0) for m in margins]
    return mean_interval([a - b for a, b in zip(stated, actual, strict=True)], confidence=SURE)


def temperature(margins: Values) -> float | None:
    """T with which σ(margin / T) fits best (Guo et al., arXiv:1706.04599). None: no finite positive one does."""
    if all(m >= 0 for m in margins) or sum(margins) <= 0:
        return None
    low, high = 1e-6, 1e6  # the likelihood's derivative in k = 1/T, the sum of m·σ(−k·m), falls with k

    def derivative(k: float) -> float:
        return math.fsum(m / (1 + math.exp(max(-700.0, min(700.0, k * m)))) for m in margins)

    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if derivative(middle) > 0 else (low, middle)
    return 1 / low


def scored_in(case: Case) -> Scored:
    """Raises NotChecked where the subject is no reward model."""
    if not isinstance(case.models, Scored):
        raise NotChecked("needs a reward model as the subject: assent doctor REWARD_MODEL --probe")
    return case.models


def scored_example(*, level: float = 0.0, **changes: Any) -> Case:
    """A healthy reward model, for a rule's FIRES and QUIET, with what is changed of it. `level` is added to all scores.

    Its margins are those of a model that is right as often as it says, three times out of four.
    """
    number = 120
    margins = [(-1.0 if i % 4 == 3 else 1.0) * (0.6 + 0.9 * ((i * 7) % 11) / 10) for i in range(number)]
    better = [0.5 * math.sin(3.0 * i) + margin / 2 for i, margin in enumerate(margins)]
    worse = [score - margin for score, margin in zip(better, margins, strict=True)]
    healthy = Scored(
        given=True,
        better=better,
        worse=worse,
        better_characters=[40 + (i * 5) % 17 for i in range(number)],
        worse_characters=[40 + (i * 11) % 17 for i in range(number)],
        empty=[score - 1.5 for score in better],
        doubled=[score - 0.4 + 0.3 * (i % 2) for i, score in enumerate(better)],
        open_ended=[score - 0.2 + 0.3 * (i % 2) for i, score in enumerate(better)],
        retouched=[score + 0.05 * (-1) ** i for i, score in enumerate(better)],
        other_better=[0.3 * math.sin(5.0 * i) for i in range(number)],
        other_worse=[0.3 * math.sin(7.0 * i) for i in range(number)],
        right_padded=[1e-7] * 8,
        left_padded=[1e-7] * 8,
    )
    names = ("better", "worse", "empty", "doubled", "open_ended", "retouched", "other_better", "other_worse")
    scores: dict[str, Any] = {name: [score + level for score in getattr(healthy, name)] for name in names}
    return Case(models=replace(healthy, **{**scores, **changes}), source="model")
