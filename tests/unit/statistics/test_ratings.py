"""Bradley–Terry ratings: known strengths, scikit-learn's likelihood, coverage, and where there is no maximum."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from assent.errors import ConfigError
from assent.statistics.ratings import ELO_POINTS, bradley_terry

STRENGTH = {"a": 0.0, "b": 0.5, "c": -0.7, "d": 1.2}


def drawn(prompts: int, *, seed: int = 0, luck: float = 0.0) -> dict[tuple[str, str], np.ndarray]:
    """Single comparisons of every pair on every prompt; `luck`: how much a policy's strength varies by prompt."""
    generator = np.random.default_rng(seed)
    on_prompt = {name: strength + luck * generator.normal(size=prompts) for name, strength in STRENGTH.items()}
    return {
        (x, y): (generator.random(prompts) < expit(on_prompt[x] - on_prompt[y])).astype(float)
        for x, y in itertools.combinations(STRENGTH, 2)
    }


def test_ratings_are_the_strengths_and_the_maximum_of_the_likelihood() -> None:
    shares = drawn(2000)
    ratings = bradley_terry(shares, baseline="a")
    names = list(STRENGTH)
    rows = [
        ([(name == x) - (name == y) for name in names[1:]], won) for (x, y), values in shares.items() for won in values
    ]
    x, y = np.array([row for row, _ in rows], dtype=float), np.array([won for _, won in rows])
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0]
    for name, by_sklearn in zip(names[1:], fitted, strict=True):
        rating = ratings[name]
        assert rating is not None
        assert rating.value == pytest.approx(ELO_POINTS * by_sklearn, abs=0.01)
        assert rating.low < ELO_POINTS * STRENGTH[name] < rating.high
        assert rating.high - rating.low < 60
        assert (rating.n, rating.clusters) == (6000, 2000)
    baseline = ratings["a"]
    assert baseline is not None
    assert (baseline.value, baseline.low, baseline.high) == (0, 0, 0)


def test_two_policies_have_the_log_odds_of_their_win_rate() -> None:
    ratings = bradley_terry({("a", "b"): [1, 1, 1, 0]}, baseline="b")
    rating = ratings["a"]
    assert rating is not None
    assert rating.value == pytest.approx(400 * math.log10(3))
    other = bradley_terry({("a", "b"): [1, 1, 1, 0]}, baseline="b", confidence=0.5)["a"]
    assert other is not None
    reach = stats.t.ppf([0.975, 0.75], 3)
    assert (rating.high - rating.value) / (other.high - other.value) == pytest.approx(reach[0] / reach[1])
    drawn_ = bradley_terry({("a", "b"): [0.5, 0.5, 0.5]}, baseline="b")["a"]  # who only ties is as good
    assert drawn_ is not None
    assert drawn_.value == pytest.approx(0, abs=1e-6)


def test_intervals_cover_where_a_prompt_suits_one_policy() -> None:
    """The truth is what endless prompts would give, so the luck of a prompt is part of the noise."""
    truth = bradley_terry(drawn(40_000, seed=99, luck=1.0), baseline="a")["d"]
    assert truth is not None
    covered = 0
    for seed in range(150):
        rating = bradley_terry(drawn(80, seed=seed, luck=1.0), baseline="a")["d"]
        assert rating is not None
        covered += rating.low <= truth.value <= rating.high
    assert covered >= 0.9 * 150


def test_who_always_wins_has_no_finite_rating_and_the_others_keep_theirs() -> None:
    shares = {("a", "b"): [1, 0, 0.5], ("best", "a"): [1, 1, 1], ("best", "b"): [1, 1, 1]}
    ratings = bradley_terry(shares, baseline="a")
    assert ratings["best"] is None
    b = ratings["b"]
    assert b is not None
    assert b.value == pytest.approx(0, abs=1e-6)
    alone = bradley_terry({("best", "a"): [1.0, 1.0]}, baseline="a")
    assert alone["best"] is None
    with pytest.raises(ConfigError, match="not compared"):
        bradley_terry(shares, baseline="z")


def test_prompts_of_one_cluster_count_once() -> None:
    shares = drawn(100)
    doubled = {pair: np.repeat(values, 2) for pair, values in shares.items()}
    once = bradley_terry(shares, baseline="a")["d"]
    twice = bradley_terry(doubled, baseline="a", clusters=np.repeat(np.arange(100), 2).tolist())["d"]
    assert once is not None
    assert twice is not None
    assert twice.standard_error == pytest.approx(once.standard_error, rel=0.01)


def test_a_prompt_that_was_not_compared_is_left_out() -> None:
    with_gap = bradley_terry({("a", "b"): [1, math.nan, 0, 1]}, baseline="b")["a"]
    without = bradley_terry({("a", "b"): [1, 0, 1]}, baseline="b")["a"]
    assert with_gap is not None
    assert without is not None
    assert (with_gap.value, with_gap.n, with_gap.clusters) == (pytest.approx(without.value), 3, 3)
