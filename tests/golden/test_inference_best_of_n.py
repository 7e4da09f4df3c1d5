"""Best-of-N against enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from assent.inference.best_of_n import (
    best_index,
    best_of_n_distribution,
    best_of_n_kl,
    best_of_n_kl_bound,
    expected_best_of_n,
)


def by_subsets(scores: list[float], values: list[float], n: int) -> float:
    """The mean over all subsets of n; a tie at the top is drawn evenly."""
    totals = []
    for subset in itertools.combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        totals.append(np.mean([values[i] for i in subset if scores[i] == top]))
    return float(np.mean(totals))


@pytest.mark.parametrize("scores", [[0.3, -1.0, 2.0, 0.7, 1.1, 0.9, -0.2], [1.0, 1.0, 0.0, 2.0, 2.0, 2.0, -1.0], [5.0]])
def test_curve_is_the_mean_over_all_subsets(scores: list[float]) -> None:
    values = [float((7 * i) % 5) - 1.5 for i in range(len(scores))]
    for given in (None, values):
        curve = expected_best_of_n(scores, values=given)
        expected = [by_subsets(scores, given or scores, n) for n in range(1, len(scores) + 1)]
        np.testing.assert_allclose(curve, expected, atol=1e-12, rtol=0)


def test_curve_of_many_samples() -> None:
    """0 … M-1: the expected maximum of N is N (M + 1) / (N + 1) - 1, at sizes whose binomials overflow a float."""
    M = 1500
    N = np.arange(1, M + 1)
    np.testing.assert_allclose(expected_best_of_n(list(range(M))), N * (M + 1) / (N + 1) - 1, rtol=1e-10)


def test_curve_refuses_lengths_that_differ() -> None:
    with pytest.raises(ValueError, match="the same length"):
        expected_best_of_n([1.0, 2.0], values=[1.0])
    with pytest.raises(ValueError, match="the same length"):
        expected_best_of_n([])


def by_sequences(p: list[float], scores: list[float], n: int) -> np.ndarray:
    """All len(p)^n sequences of samples; the first of the best is kept."""
    q = np.zeros(len(p))
    for drawn in itertools.product(range(len(p)), repeat=n):
        q[max(drawn, key=lambda y: scores[y])] += math.prod(p[y] for y in drawn)
    return q


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("p", "scores"),
    [
        ([0.5, 0.3, 0.2], [0.0, 1.0, 2.0]),
        ([0.5, 0.3, 0.2], [2.0, 1.0, 0.0]),
        ([0.4, 0.1, 0.3, 0.2], [1.0, 1.0, 0.0, 1.0]),
        ([0.25, 0.25, 0.25, 0.25], [3.0, 3.0, 3.0, 3.0]),
        ([1e-7, 0.6, 0.0, 0.4 - 1e-7], [5.0, 1.0, 9.0, 1.0]),
        ([1.0], [0.0]),
    ],
)
def test_distribution_and_kl_are_those_of_enumeration(p: list[float], scores: list[float], n: int) -> None:
    expected = by_sequences(p, scores, n)
    q = best_of_n_distribution(p, scores, n)
    np.testing.assert_allclose(q, expected, atol=1e-12, rtol=1e-9)
    assert q.sum() == pytest.approx(1.0, abs=1e-12)
    kl = sum(a * math.log(a / b) for a, b in zip(expected, p, strict=True) if a > 0)
    assert best_of_n_kl(p, scores, n) == pytest.approx(kl, abs=1e-9)
    assert best_of_n_kl(p, scores, n) <= best_of_n_kl_bound(n) + 1e-12


def test_kl_meets_its_bound_where_nothing_ties() -> None:
    """100,000 outcomes of equal probability and distinct scores: nearly the continuous case; with ties far below."""
    p = np.full(100_000, 1e-5)
    assert best_of_n_kl(p, np.arange(100_000), 16) == pytest.approx(best_of_n_kl_bound(16), abs=1e-3)
    assert best_of_n_kl(p, np.arange(100_000) // 50_000, 16) == pytest.approx(math.log(2), abs=1e-3)
    assert best_of_n_kl_bound(1) == 0.0


def test_probabilities_are_checked() -> None:
    for p, scores, n in (([0.5, 0.4], [0, 1], 2), ([1.5, -0.5], [0, 1], 2), ([1.0], [0], 0), ([1.0], [0, 1], 1)):
        with pytest.raises(ValueError, match=r"probabilities|at least 1"):
            best_of_n_distribution(p, scores, n)
    with pytest.raises(ValueError, match="NaN"):
        best_of_n_kl([1.0], [math.nan], 1)
    with pytest.raises(ValueError, match="at least 1"):
        best_of_n_kl_bound(0)


def test_the_first_of_the_highest_scores_is_the_best() -> None:
    assert [best_index(scores) for scores in ([5.0, 9.0, 7.0], [8.0, 3.0, 8.0], [1.0, 3.0, 3.0])] == [1, 0, 1]
