"""What a loss could learn from lengths alone: how many held-out pairs they decide."""

from __future__ import annotations

import math

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import Rows, data_of, percent, rows_example, sample_pair, sample_pairs, share
from assent.diagnosis.rule import NotChecked, Rule
from assent.statistics.small import Interval

TELLS = 0.6
"""Held-out accuracy of lengths alone from which a reward model's own accuracy has to be read beside it."""
LEAST, FOLDS = 50, 5


def check(case: Case) -> Finding | None:
    accuracy, prompts = length_baseline(data_of(case))
    if accuracy.low <= TELLS:
        return None
    return Finding(
        severity="warning",
        confidence="certain",
        verdict=f"lengths alone decide {percent(accuracy)} of pairs ({prompts:,} prompts), by cross-validation within "
        "this file",
        evidence=(Evidence(metric="length baseline, accuracy", value=accuracy.value, expected="about 0.5"),),
        cause="better and worse answers differ in length, so that a loss can fall without a look at their content",
        next_action=f"count a reward model's accuracy only above {accuracy.value:.0%}, and compare it "
        f"on pairs of equal "
        "length (assent eval); to teach content, keep pairs of similar length",
    )


def length_baseline(rows: Rows) -> tuple[Interval, int]:
    """Held-out accuracy of a logistic model of length, and the number of prompts. Folds keep conversations together.

    An answer's score is a·l + b·l², with l its log length, so that a liking for a middle length is found as well.
    """
    import numpy
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    pairs = rows.pairs
    roots = [pair.root for pair in pairs]
    if len(set(roots)) < LEAST:
        raise NotChecked(f"too few conversations with two ordered answers: {len(set(roots))} of {LEAST}")
    lengths = numpy.array([[math.log(1 + len(text)) for text in (pair.better, pair.worse)] for pair in pairs])
    lengths -= lengths.mean()
    features = numpy.stack([lengths[:, 0] - lengths[:, 1], lengths[:, 0] ** 2 - lengths[:, 1] ** 2], axis=1)
    # Each pair is given in a random order, which is its label; without an intercept nothing else tells it.
    signs = numpy.where(numpy.random.default_rng(0).random(len(pairs)) < 0.5, -1.0, 1.0)
    model = LogisticRegression(fit_intercept=False)
    given = features * signs[:, None]
    decided = cross_val_predict(model, given, signs, groups=roots, cv=GroupKFold(FOLDS), method="decision_function")
    right = numpy.where(decided == 0, 0.5, (decided * signs > 0).astype(float))
    return share((pair.prompt, float(value)) for pair, value in zip(pairs, right, strict=True))


RULE = Rule(
    name="length_tells",
    title="lengths alone decide held-out pairs",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("length bias of the labels", "answers of two writers with different habits"),
    source="Singhal et al., arXiv:2310.03716 (failures R1)",
)


def _middle(number: int) -> dict[str, str]:
    """The better answer has about 20 words, the worse one three, or ninety."""
    words = ["so"] * (3 if number % 2 else 90)
    return sample_pair(number, better=" ".join(["so"] * (18 + number % 5)) + ".", worse=" ".join(words) + ".")


FIRES = rows_example(_middle(number) for number in range(100))
QUIET = rows_example(sample_pairs(100))
