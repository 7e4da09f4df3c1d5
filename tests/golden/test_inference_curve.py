"""The curve of best-of-N and its estimated KL against enumeration and the sampling distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from assent.errors import DataError
from assent.inference.best_of_n import best_of_n_kl, best_of_n_kl_bound, chances_of_best
from assent.inference.curve import best_of_n_curve, best_of_n_kl_estimate, n_for_gain, tie_gap
from assent.sandbox.microworld import MicroWorld
from assent.statistics.intervals import mean_interval


def test_chances_of_best_are_counts_of_subsets() -> None:
    for m, n in ((5, 1), (5, 3), (5, 5)):
        counted = [math.comb(i, n - 1) / math.comb(m, n) for i in range(m)]
        np.testing.assert_allclose(chances_of_best(m, n), counted, atol=1e-15)


@pytest.mark.parametrize("n", [2, 5, 40])
@pytest.mark.parametrize("share", [1e-7, 3e-3, 0.2, 0.7, 1.0])
def test_the_gap_of_a_tie_is_the_kl_within_its_interval(share: float, n: int) -> None:
    """Against the integral of f log(f · width) over the tie's interval, f = n v^(n-1) / (1 - (1 - share)^n)."""
    v, weight = np.polynomial.legendre.leggauss(400)
    v = 1 - share / 2 + v * share / 2
    f = n * v ** (n - 1) / -np.expm1(n * np.log1p(-share)) if share < 1 else n * v ** (n - 1)
    integral = share / 2 * (weight * f * np.log(f * share)).sum()
    assert tie_gap(share, n) == pytest.approx(integral, abs=1e-6 if share == 1 else 1e-9)


def test_bound_less_the_gaps_of_all_ties_is_the_exact_kl() -> None:
    """With the true shares in the place of estimated ones nothing is left to estimate."""
    world = MicroWorld(vocabulary=4, length=3, seed=2)
    p = np.exp(world.reference) / np.exp(world.reference).sum()
    _, tied = np.unique(world.reward, return_inverse=True)
    mass = np.bincount(tied, weights=p)
    upper = np.cumsum(mass)
    for n in (1, 2, 7, 30):
        chance = upper**n - np.maximum(upper - mass, 0) ** n
        gap = sum(c * tie_gap(min(share, 1.0), n) for c, share in zip(chance, mass / upper, strict=True))
        exact = best_of_n_kl(p, world.reward, n)
        assert best_of_n_kl_bound(n) - gap == pytest.approx(exact, abs=1e-9)
        assert world.kl(world.best_of(n), world.reference) == pytest.approx(exact, abs=1e-9)


def test_the_gaps_of_many_ties_are_those_of_each() -> None:
    shares = np.array([0.0, 1e-6, 0.3, 1.0])
    assert tie_gap(shares, 6).tolist() == [float(tie_gap(share, 6)) for share in shares]
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match="a share must be in"):
            tie_gap(share, 6)


DISTRIBUTIONS = {
    "two": [0.5, 0.5],
    "rare best": [0.9, 0.1],
    "ten": [0.1] * 10,
    "fifty": [0.02] * 50,
    "halving": [0.5**i for i in (10, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)],
    "one": [1.0],
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_estimate_meets_enumeration(name: str) -> None:
    """Its mean over 600 prompts of 64 samples, against the exact KL: 0.03 nats and four standard errors."""
    p = np.array(DISTRIBUTIONS[name])
    rng = np.random.default_rng(5)
    drawn = rng.choice(len(p), size=(600, 64), p=p).astype(float)
    for n in (2, 16):
        found = np.array([best_of_n_kl_estimate(row, n) for row in drawn])
        exact = best_of_n_kl(p, np.arange(len(p)), n)
        assert abs(found.mean() - exact) < 0.03 + 4 * found.std() / 600**0.5
        assert (found <= best_of_n_kl_bound(n) + 1e-12).all()
    if name != "one":
        assert best_of_n_kl_bound(16) - exact > 0.003  # the bound would not pass for most


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_known_probabilities_meet_enumeration_where_all_samples_are_used(name: str) -> None:
    """n = M, where scores alone err by up to 0.2 nats: 0.02 and four standard errors."""
    p = np.array(DISTRIBUTIONS[name])
    rng = np.random.default_rng(5)
    for n in (8, 64):
        rows = rng.choice(len(p), size=(400, n), p=p)
        drawn = [[(int(i), math.log(p[i])) for i in row] for row in rows]
        found = np.array([best_of_n_kl_estimate(row, n, drawn=one) for row, one in zip(rows, drawn, strict=True)])
        assert abs(found.mean() - best_of_n_kl(p, np.arange(len(p)), n)) < 0.02 + 4 * found.std() / 400**0.5
    if name == "ten":
        scored = np.mean([best_of_n_kl_estimate(row, n) for row in rows])
        assert scored - best_of_n_kl(p, np.arange(10), n) > 0.1  # and the probabilities are what helps


def test_a_rule_that_many_completions_follow_is_a_tie_whatever_their_probabilities() -> None:
    """Scores 0 and 1 over 1,000 rare completions: the KL is at most log 2, far from what one completion's would say."""
    rows = np.random.default_rng(0).integers(1000, size=(300, 64))
    drawn = [[(int(i), math.log(1e-3)) for i in row] for row in rows]
    found = [best_of_n_kl_estimate(row % 2, 16, drawn=one) for row, one in zip(rows, drawn, strict=True)]
    exact = best_of_n_kl([1e-3] * 1000, np.arange(1000) % 2, 16)
    assert exact < math.log(2) < best_of_n_kl_bound(16) - 1
    assert np.mean(found) == pytest.approx(exact, abs=0.05)


def test_the_same_completion_ties_with_itself_though_its_scores_were_rounded_apart() -> None:
    rounded = [1.0, 1.0 + 1e-7, 2.0, 1.0 - 1e-7]
    drawn = [("a", None), ("a", None), ("b", None), ("a", None)]
    assert best_of_n_kl_estimate(rounded, 2, drawn=drawn) == best_of_n_kl_estimate([1.0, 1.0, 2.0, 1.0], 2)
    assert best_of_n_kl_estimate(rounded, 2) == best_of_n_kl_bound(2)


def test_without_ties_the_estimate_is_the_bound_and_with_nothing_else_zero() -> None:
    assert best_of_n_kl_estimate([3.0, 1.0, 2.0, 0.5], 4) == best_of_n_kl_bound(4)
    assert best_of_n_kl_estimate([1.0] * 8, 8) == pytest.approx(0, abs=1e-12)
    for n in (0, 5):
        with pytest.raises(DataError, match="n samples"):
            best_of_n_kl_estimate([1.0] * 4, n)


def test_the_curve_covers_the_exact_one_and_gives_the_n_for_a_gain() -> None:
    """One policy for all prompts, so the truth is one: mean reward and KL of best-of-N by enumeration."""
    world = MicroWorld(vocabulary=5, length=3, seed=4)
    p = np.exp(world.reference) / np.exp(world.reference).sum()
    rows = np.random.default_rng(1).choice(len(p), size=(400, 12), p=p)
    curve = best_of_n_curve(world.reward[rows].tolist())
    assert [point.n for point in curve] == list(range(1, 13))
    for n in (1, 4, 12):
        point, exact = curve[n - 1], world.mean_reward(world.best_of(n))
        assert abs(point.score.value - exact) < 4 * point.score.standard_error
        assert point.kl is not None
        assert abs(point.kl.value - best_of_n_kl(p, world.reward, n)) < 0.03 + 4 * point.kl.standard_error
        assert point.gain.value == pytest.approx(point.score.value - curve[0].score.value, abs=1e-12)
    wanted = curve[4].gain.value
    assert n_for_gain(curve, wanted) == 5
    assert n_for_gain(curve, wanted + 1e-9) == 6
    assert n_for_gain(curve, 10.0) is None
    assert curve[0].as_dict()["gain"]["value"] == 0
    with pytest.raises(DataError, match="at least one sample"):
        best_of_n_curve([[1.0], []])


def test_rows_of_unequal_length_end_at_the_shortest_and_values_leave_the_bound_alone() -> None:
    curve = best_of_n_curve([[1.0, 2.0, 3.0], [5.0, 4.0]], values=[[0.0, 0.0, 6.0], [1.0, 3.0]])
    assert [point.score.value for point in curve] == pytest.approx([2.0, (4.0 + 1.0) / 2])
    assert curve[1].kl is None
    assert curve[1].kl_bound == best_of_n_kl_bound(2)


def test_intervals_of_the_curve_are_over_clusters_at_the_confidence_asked_for() -> None:
    rows = np.random.default_rng(0).random((12, 4)).tolist()
    options: dict[str, Any] = {"clusters": [p // 3 for p in range(12)], "confidence": 0.8}
    point = best_of_n_curve(rows, **options)[1]
    best_of_two = [(1 * r[1] + 2 * r[2] + 3 * r[3]) / 6 for r in map(sorted, rows)]
    score, gain = (mean_interval(x, **options) for x in (best_of_two, np.array(best_of_two) - np.mean(rows, axis=1)))
    assert point.score.as_dict() == pytest.approx(score.as_dict())
    assert point.gain.as_dict() == pytest.approx(gain.as_dict())
    assert point.kl is not None
    assert (point.kl.clusters, point.kl.confidence) == (4, 0.8)
