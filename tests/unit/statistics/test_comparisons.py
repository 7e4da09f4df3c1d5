"""Win rates at equal length, and how many prompts a precision takes: against scikit-learn, known truths, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from statsmodels.stats.proportion import proportion_confint, samplesize_confint_proportion

from assent.errors import ConfigError, DataError
from assent.statistics.comparisons import length_controlled, prompts_needed
from assent.statistics.intervals import Estimate, proportion_interval


def judged(count: int, *, theta: float, phi: float, longer: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Wins of A and length differences: A's answers are `longer` deviations longer, the judge pays `phi` for length."""
    generator = np.random.default_rng(seed)
    delta = 100 * (longer + generator.normal(size=count))
    wins = generator.random(count) < expit(theta + phi * np.tanh(delta / delta.std()))
    return wins.astype(float), delta


def test_length_control_takes_out_a_bias_put_in_by_hand() -> None:
    """A is no better (θ = 0), but a deviation longer, before a judge that likes length."""
    wins, delta = judged(20_000, theta=0.0, phi=2.0, longer=1.0)
    assert wins.mean() > 0.7
    controlled = length_controlled(wins, delta)
    assert controlled is not None
    assert controlled.win_rate.low < 0.5 < controlled.win_rate.high
    assert controlled.win_rate.high - controlled.win_rate.low < 0.04
    assert controlled.effect.low < 2.0 < controlled.effect.high
    better, delta = judged(20_000, theta=0.5, phi=-2.0, longer=1.0)  # better, and punished for its length
    assert better.mean() < 0.5
    controlled = length_controlled(better, delta)
    assert controlled is not None
    assert controlled.win_rate.low < expit(0.5) < controlled.win_rate.high
    assert controlled.win_rate.low > 0.55


def test_its_figure_is_the_maximum_of_the_likelihood() -> None:
    """scikit-learn's logistic regression, each prompt with weight 1 however many answers it has, a tie half a win."""
    wins, delta = judged(300, theta=0.3, phi=1.0, longer=0.5)
    wins[::7] = 0.5
    prompts = np.sort(np.random.default_rng(1).integers(0, 80, size=300))
    controlled = length_controlled(wins, delta, clusters=prompts)
    assert controlled is not None
    weight = 1 / np.bincount(prompts)[prompts]
    x = np.tanh(delta / delta.std())[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(
        np.concatenate([x, x]),
        np.repeat([1, 0], 300),
        sample_weight=np.concatenate([weight * wins, weight * (1 - wins)]),
    )
    assert controlled.win_rate.value == pytest.approx(expit(fitted.intercept_[0]), abs=1e-5)
    assert controlled.effect.value == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    assert (controlled.win_rate.n, controlled.win_rate.clusters) == (300, len(set(prompts)))
    # the sandwich, by hand: bread is the weighted information, meat the outer products of whole prompts' scores
    design = np.column_stack([np.ones(300), x])
    p = expit(design @ [fitted.intercept_[0], fitted.coef_[0, 0]])
    bread = np.linalg.inv((design * (weight * p * (1 - p))[:, None]).T @ design)
    scores = np.zeros((80, 2))
    np.add.at(scores, prompts, (weight * (wins - p))[:, None] * design)
    number = len(set(prompts))
    variance = bread @ (scores.T @ scores) @ bread * number / (number - 1) * 299 / 298
    assert controlled.effect.standard_error == pytest.approx(np.sqrt(variance[1, 1]), rel=1e-4)
    slope = expit(fitted.intercept_[0]) * (1 - expit(fitted.intercept_[0]))  # the delta method
    assert controlled.win_rate.standard_error == pytest.approx(slope * np.sqrt(variance[0, 0]), rel=1e-4)
    quantile = stats.t.ppf(0.9, number - 2)
    narrow = length_controlled(wins, delta, clusters=prompts, confidence=0.8)
    assert narrow is not None
    assert narrow.win_rate.high == pytest.approx(
        expit(fitted.intercept_[0] + quantile * np.sqrt(variance[0, 0])), rel=1e-4
    )
    assert narrow.effect.low == pytest.approx(fitted.coef_[0, 0] - quantile * np.sqrt(variance[1, 1]), rel=1e-3)


def test_copies_of_an_answer_say_no_more_than_one() -> None:
    wins, delta = judged(60, theta=0.3, phi=1.0, longer=0.5)
    once = length_controlled(wins, delta)
    thrice = length_controlled(np.repeat(wins, 3), np.repeat(delta, 3), clusters=np.repeat(np.arange(60), 3))
    assert once is not None
    assert thrice is not None
    assert thrice.win_rate.value == pytest.approx(once.win_rate.value)
    assert thrice.win_rate.standard_error == pytest.approx(once.win_rate.standard_error, rel=0.02)


@pytest.mark.parametrize(
    ("wins", "delta"),
    [
        ([1.0] * 6, [3, -2, 5, 1, -4, 2]),  # one side wins everywhere
        ([1, 1, 1, 0, 0, 0], [5, 4, 3, -1, -2, -3]),  # the longer one wins everywhere
        ([1, 1, 0, 0], [2, 1, 1, 0]),  # the same, but for two of one length
        ([1, 0, 1, 0, 1, 0], [7] * 6),  # all differ by the same
        ([0.5, 0.5, 0, 0, 0, 0], [130, 158, 154, 150, 149, 151]),  # as good as by the same: one policy ran on
        ([1, 0], [3, -2]),
        ([0, 0.5, 1, 0.5, 1, 0.5], [100] * 5 + [0]),  # the term of equal lengths rests on one tie: no error, or NaN
        ([0, 1, 1, 0, 1, 0.5], [100] * 5 + [0]),
        ([0, 0, 0.5, 1, 0.5, 0.5], [128] * 4 + [0] * 2),
    ],
)
def test_what_cannot_be_told_apart_has_no_figure(wins: list[float], delta: list[float]) -> None:
    assert length_controlled(wins, delta) is None


def test_length_controls_intervals_cover_with_clustered_prompts() -> None:
    """Prompts that A is good at, three answers to each: without clusters the coverage would be far lower."""
    generator = np.random.default_rng(5)
    covered = {"clustered": 0, "not": 0}
    truth = _marginal(0.3, 1.2, 1.0)
    for _ in range(200):
        taste = np.repeat(generator.normal(size=100), 3)
        delta = generator.normal(0.5, 1.0, size=300)
        wins = (generator.random(300) < expit(0.3 + 4 * taste + 1.2 * np.tanh(delta / delta.std()))).astype(float)
        for name, clusters in (("clustered", np.repeat(np.arange(100), 3)), ("not", None)):
            found = length_controlled(wins, delta, clusters=clusters)
            assert found is not None
            covered[name] += found.win_rate.low <= truth <= found.win_rate.high
    assert covered["clustered"] >= 0.91 * 200
    assert covered["not"] < 0.9 * 200


def _marginal(theta: float, phi: float, deviation: float) -> float:
    """The figure that endless data would give: the fit on two million comparisons."""
    generator = np.random.default_rng(11)
    x = np.tanh(generator.normal(0.5, deviation, size=200_000))
    share = expit(theta + 4 * generator.normal(size=200_000) + phi * x)
    found = length_controlled(share, np.arctanh(x) * 1.0)
    assert found is not None
    return found.win_rate.value


def test_prompts_needed_are_those_of_wilsons_interval() -> None:
    generator = np.random.default_rng(0)
    single = proportion_interval((generator.random(400) < 0.6).astype(float))
    needed = prompts_needed(single, half_width=0.02)
    assert needed is not None
    plain = samplesize_confint_proportion(single.value, 0.02, alpha=0.05)  # of the normal interval
    assert needed == pytest.approx(plain, rel=0.01)
    shares = generator.random((100, 20)) < generator.beta(20, 20, size=(100, 1))  # twenty answers a prompt tell more
    many = prompts_needed(proportion_interval(shares.mean(1)), half_width=0.02)
    assert many is not None
    assert many < 0.2 * needed


def test_prompts_needed_are_the_fewest() -> None:
    half = Estimate(value=0.6, low=0, high=1, n=50, clusters=50, standard_error=(0.24 / 50) ** 0.5, confidence=0.8)
    needed = prompts_needed(half, half_width=0.02)
    assert needed is not None
    for prompts, wide in ((needed, False), (needed - 1, True)):
        low, high = proportion_confint(0.6 * prompts, prompts, alpha=0.2, method="wilson")
        assert (high - low > 0.04) == wide


def test_that_many_prompts_do_give_the_precision() -> None:
    generator = np.random.default_rng(3)
    pilot = proportion_interval(generator.choice([0, 0.5, 1], p=[0.3, 0.2, 0.5], size=300))
    needed = prompts_needed(pilot, half_width=0.03)
    assert needed is not None
    full = proportion_interval(generator.choice([0, 0.5, 1], p=[0.3, 0.2, 0.5], size=needed))
    assert (full.high - full.low) / 2 == pytest.approx(0.03, rel=0.08)


def test_prompts_needed_where_an_interval_says_little_or_all() -> None:
    certain = proportion_interval([1.0] * 50)
    needed = prompts_needed(certain, half_width=0.01)
    assert needed is not None
    assert 100 < needed < 400
    assert prompts_needed(proportion_interval([1.0]), half_width=0.1) is None
    with pytest.raises(ConfigError, match="half-width"):
        prompts_needed(certain, half_width=0.5)
    with pytest.raises(DataError, match="a length for each"):
        length_controlled([1.0], [1.0, 2.0])
