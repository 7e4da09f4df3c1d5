"""Agreement equals published worked examples and other libraries' figures, and its intervals cover the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from assent.errors import DataError
from assent.statistics.intervals import Estimate
from assent.statistics.reliability import (
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    label_accuracy,
    raw_agreement,
)

KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section D: four observers, twelve units."""
ROWS = [row.split() for row in KRIPPENDORFF.split("\n") if row]
UNITS = [[int(cell) for cell in column if cell != "."] for column in zip(*ROWS, strict=True)]

FLEISS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip
"""The worked example of Wikipedia's page on Fleiss' kappa: ten subjects, fourteen raters, kappa 0.210."""


def of(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


@pytest.mark.parametrize(("metric", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_krippendorffs_example(metric: str, alpha: float) -> None:
    found = krippendorff_alpha(UNITS, metric=metric)  # type: ignore[arg-type]
    assert of(found) == pytest.approx(alpha, abs=5e-4)
    assert found is not None
    assert found.n == 11, "a unit with one label says nothing"


def test_fleiss_kappa_is_the_worked_example_and_statsmodels() -> None:
    units = [[value for value, count in enumerate(row) for _ in range(count)] for row in FLEISS]
    assert of(fleiss_kappa(units)) == pytest.approx(0.210, abs=5e-4)
    assert of(fleiss_kappa(units)) == pytest.approx(inter_rater.fleiss_kappa(np.array(FLEISS)), abs=1e-12)


def test_cohen_kappa_is_the_worked_example_and_sklearn() -> None:
    """Fifty grant proposals, two readers: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no; kappa 0.4."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert of(cohen_kappa(first, second)) == pytest.approx(0.4, abs=1e-12)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 200)).tolist()
    assert of(cohen_kappa(a, b)) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)


def test_raw_agreement_by_hand() -> None:
    units = [["a", "a"], ["a", "b"], ["a", "a", "b"], ["a"]]
    assert of(raw_agreement(units)) == pytest.approx((1 + 0 + 1 / 3) / 3)


def test_two_labels_a_unit_give_alpha_from_fleiss_kappa() -> None:
    """With n labels in all, 1 - alpha = (1 - kappa) (n - 1) / n (Krippendorff's correction for small samples)."""
    rng = np.random.default_rng(1)
    units = rng.integers(0, 3, (40, 2)).tolist()
    kappa, alpha = of(fleiss_kappa(units)), of(krippendorff_alpha(units))
    assert 1 - alpha == pytest.approx((1 - kappa) * 79 / 80, abs=1e-12)


def test_what_cannot_be_corrected_is_none() -> None:
    assert raw_agreement([["a"], []]) is None
    assert fleiss_kappa([["a"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None
    assert cohen_kappa([], []) is None
    with pytest.raises(DataError, match="the same units"):
        cohen_kappa(["a"], ["a", "b"])
    with pytest.raises(DataError, match="needs a cluster"):
        raw_agreement([["a", "a"]], clusters=[])


def test_one_cluster_has_no_interval() -> None:
    found = raw_agreement([["a", "a"], ["a", "b"]], clusters=[1, 1])
    assert found is not None
    assert found.as_dict()["low"] is None


def test_the_bootstrap_is_that_of_clusters_drawn_one_by_one() -> None:
    """By hand: whole clusters are drawn with replacement, and the figure is computed anew."""
    rng = np.random.default_rng(2)
    units = rng.integers(0, 2, (60, 2)).tolist()
    prompts = [n // 3 for n in range(60)]
    found = raw_agreement(units, clusters=prompts)
    assert found is not None
    equal = np.array([a == b for a, b in units]).reshape(20, 3)
    drawn = [equal[rng.integers(0, 20, 20)].mean() for _ in range(20_000)]
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.018)  # steps of 1/60
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.018)
    assert found.standard_error == pytest.approx(np.std(drawn), rel=0.05)


def test_the_intervals_cover_the_truth() -> None:
    """Two annotators who are right 80% of the time: they agree in 68% of the units."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        truth = rng.integers(0, 2, 150)
        labels = [np.where(rng.random(150) < 0.8, truth, 1 - truth) for _ in range(2)]
        found = raw_agreement(np.stack(labels, 1).tolist())
        assert found is not None
        covered += found.low <= 0.68 <= found.high
    assert 88 <= covered <= 100  # 95 expected


@pytest.mark.parametrize("q", [0.6, 0.75, 0.9, 1.0])
def test_the_accuracy_of_a_label_follows_from_agreement(q: float) -> None:
    agreement = sum(
        (q if a else 1 - q) * (q if b else 1 - q) for a, b in itertools.product([True, False], repeat=2) if a == b
    )
    known = Estimate(value=agreement, low=agreement - 0.01, high=agreement, n=9, clusters=9, standard_error=0.01)
    found = label_accuracy(known)
    assert found.value == pytest.approx(q)
    assert found.low < found.value == found.high
    step = label_accuracy(Estimate(value=agreement - 1e-6, low=0.0, high=1.0, n=9, clusters=9, standard_error=0.01))
    assert found.standard_error == pytest.approx(0.01 * (found.value - step.value) / 1e-6, rel=1e-3)


def test_agreement_below_chance_gives_a_coin() -> None:
    low = Estimate(value=0.4, low=0.3, high=0.55, n=9, clusters=9, standard_error=0.1)
    assert label_accuracy(low).value == label_accuracy(low).low == 0.5
