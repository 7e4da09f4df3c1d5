"""Win rates corrected for a judge's errors, and tests of bias that say what they could have found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assent.errors import DataError
from assent.statistics.intervals import mean_interval
from assent.statistics.judged import PLANTED, POWER, Sample, bias_test, corrected_win_rate


def verdicts(wins: int, losses: int, ties: int = 0) -> list[float]:
    return [1.0] * wins + [0.0] * losses + [0.5] * ties


def test_the_estimate_is_rogan_and_gladens_by_hand() -> None:
    found = corrected_win_rate(Sample(verdicts(62, 38)), Sample(verdicts(90, 10)), Sample(verdicts(20, 80)))
    assert found.value == pytest.approx((0.62 - 0.2) / (0.9 - 0.2), abs=1e-12)  # 0.6
    assert (found.sensitivity, found.specificity) == (0.9, 0.8)
    tied = corrected_win_rate(Sample(verdicts(52, 28, 20)), Sample(verdicts(85, 5, 10)), Sample(verdicts(10, 70, 20)))
    assert tied.value == pytest.approx((0.62 - 0.2) / (0.9 - 0.2), abs=1e-12)
    one_error = corrected_win_rate(Sample(verdicts(62, 38)), Sample(verdicts(80, 20)))
    assert one_error.value == pytest.approx((0.62 + 0.8 - 1) / (2 * 0.8 - 1), abs=1e-12)  # 0.7
    assert one_error.specificity == one_error.sensitivity == 0.8


def test_the_interval_is_the_set_that_is_not_rejected() -> None:
    """By search over θ, with the means and variances written out again, instead of the roots of the quadratic."""
    n, n_a, n_b, z = 200, 60, 50, 1.959963984540054
    found = corrected_win_rate(Sample(verdicts(130, 70)), Sample(verdicts(51, 9)), Sample(verdicts(10, 40)))

    def smooth(p: float, size: float, added: float) -> tuple[float, float]:
        size *= (size - 1) / size  # the cluster-robust error has the factor n / (n - 1)
        mean = (p * size + added / 2) / (size + added)
        return mean, mean * (1 - mean) / (size + added)

    (m, vm), (a, va), (b, vb) = smooth(130 / n, n, z * z), smooth(51 / n_a, n_a, 2), smooth(10 / n_b, n_b, 2)
    thetas = np.linspace(0, 1, 200_001)
    kept = thetas[(m - b - thetas * (a - b)) ** 2 <= z * z * (vm + thetas**2 * va + (1 - thetas) ** 2 * vb)]
    assert (found.low, found.high) == pytest.approx((kept.min(), kept.max()), abs=2e-5)
    assert found.width_factor == pytest.approx((found.high - found.low) / (found.observed.high - found.observed.low))
    assert found.width_factor > 1.4


def test_a_judge_that_may_be_a_coin_says_nothing() -> None:
    found = corrected_win_rate(Sample(verdicts(70, 30)), Sample(verdicts(11, 9)), Sample(verdicts(10, 10)))
    assert (found.low, found.high) == (0, 1)
    blind = corrected_win_rate(Sample(verdicts(70, 30)), Sample(verdicts(10, 10)))
    assert (blind.value, blind.low, blind.high) == (0.5, 0, 1)


@pytest.mark.parametrize(
    ("theta", "sensitivity", "specificity", "shared"),
    [(0.5, 0.8, 0.8, True), (0.6, 0.9, 0.7, False), (0.05, 0.95, 0.9, False)],
)
def test_the_interval_covers_as_often_as_it_says(
    theta: float, sensitivity: float, specificity: float, shared: bool
) -> None:
    """Simulation. The bound is three standard errors of 400 draws below 95%; the naive interval, which takes the judge
    at its word, is held to the same bound and misses it."""
    draw, draws = np.random.default_rng(0), 400
    covered = naive = 0
    for _ in range(draws):
        people = draw.random(300) < theta
        judged = np.where(people, draw.random(300) < sensitivity, draw.random(300) > specificity)
        wins = (draw.random(120) < sensitivity).astype(float)
        losses = None if shared else Sample((draw.random(120) > specificity).astype(float))
        found = corrected_win_rate(Sample(judged.astype(float)), Sample(wins), losses)
        covered += found.low <= theta <= found.high
        naive += found.observed.low <= theta <= found.observed.high
    bound = 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)
    assert covered / draws > bound
    assert theta == 0.5 or naive / draws < bound  # at ½ equal errors cancel


def test_a_bias_is_the_mean_with_its_clustered_interval() -> None:
    draw = np.random.default_rng(1)
    values, clusters = draw.choice([0, 0.5, 1], size=90), np.repeat(np.arange(30), 3)
    test, plain = bias_test(values, 0.5, clusters=clusters), mean_interval(values - 0.5, clusters=clusters)
    for name in ("value", "low", "high", "standard_error", "clusters"):
        assert getattr(test.bias, name) == pytest.approx(getattr(plain, name), abs=1e-12), name


def test_a_planted_bias_is_found_and_the_smallest_is_where_theory_puts_it() -> None:
    """A planting of size d turns d of the verdicts to 1: the mean moves by d / 2. It is found in 80% of the draws where
    d / 2 is 2.8 standard errors (1.96 + 0.84)."""
    fair = np.tile([0.0, 1.0], 200)
    test = bias_test(fair, seed=3)
    assert not test.found
    assert 0.005 < test.planted[0.0] < 0.105  # false alarms: 5%, within three standard errors of 200 draws
    needed = 2 * 2.8 * test.bias.standard_error  # 0.14
    assert test.smallest == min(size for size in PLANTED if size >= needed)
    assert test.planted[test.smallest] >= POWER
    turned = np.where(np.random.default_rng(0).random(400) < test.smallest, 1.0, fair)
    assert bias_test(turned).found


def test_so_few_verdicts_that_no_bias_could_have_been_found_say_so() -> None:
    test = bias_test([0.0, 1.0, 0.5, 1.0])
    assert not test.found
    assert test.smallest is None or test.smallest >= 0.7
    assert bias_test(np.tile([0.0, 1.0], 2000)).smallest == 0.05
    with pytest.raises(DataError, match="two independent verdicts"):
        bias_test([1.0])
    with pytest.raises(DataError, match="each in"):
        corrected_win_rate(Sample(verdicts(5, 5)), Sample([1.0, 2.0]))


def test_against_people_the_baseline_is_theirs() -> None:
    people = np.array([1.0, 0.0] * 60)
    judge = people.copy()
    judge[1::4] = 1.0  # prefers the longer in half of the cases in which people do not
    test = bias_test(judge, people)
    assert test.bias.value == pytest.approx(0.25)
    assert test.found
    assert not bias_test(people, people[::-1].copy()).found
