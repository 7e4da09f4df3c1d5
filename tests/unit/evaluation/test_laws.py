"""The laws of over-optimisation: fits against known curves, peaks and comparisons against hand calculations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assent.errors import DataError
from assent.evaluation.laws import (
    LAWS,
    Curve,
    Law,
    beyond_peak,
    find_peak,
    fit,
    fit_law,
    highest,
    more_gold_at_equal_kl,
    predict,
)

D = np.linspace(0.2, 3.0, 15)


def curve_of(d: np.ndarray, gain: np.ndarray, *, prompts: int = 40, noise: float = 0.0, seed: int = 0) -> Curve:
    """A curve of these means, up to noise of the prompts."""
    rng = np.random.default_rng(seed)
    ones = np.ones((prompts, 1))
    return Curve(kl=ones * d**2, gain=ones * gain + noise * rng.standard_normal((prompts, len(d))))


def test_laws_are_those_of_the_paper() -> None:
    assert predict("best_of_n", np.array([2.0]), 1.0, 0.25)[0] == pytest.approx(2 * (1 - 0.25 * 2))
    assert predict("rl", np.array([math.e]), 1.0, 0.25)[0] == pytest.approx(math.e * (1 - 0.25))
    for law in LAWS:
        assert predict(law, np.zeros(1), 1.0, 0.25)[0] == 0


@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_recovered_from_its_own_points(law: Law) -> None:
    alpha, beta, r_squared = fit(law, D, predict(law, D, 0.6, 0.2))
    assert (alpha, beta, r_squared) == pytest.approx((0.6, 0.2, 1.0), abs=1e-6)
    other = LAWS[law == "best_of_n"]
    assert fit(other, D, predict(law, D, 0.6, 0.2))[2] < 0.999


@pytest.mark.parametrize("law", LAWS)
def test_the_peak_of_a_law_is_where_it_is_highest(law: Law) -> None:
    fine = np.linspace(1e-3, 20, 200_000)
    assert highest(law, 0.6, 0.2) == pytest.approx(fine[np.argmax(predict(law, fine, 0.6, 0.2))], abs=1e-3)
    assert highest(law, 0.6, -0.1) == math.inf


@pytest.mark.parametrize("law", LAWS)
def test_intervals_of_a_fit_hold_the_truth_and_narrow_with_prompts(law: Law) -> None:
    """The peak of the RL law, 7.4, lies far beyond the points: its interval is wide, and holds it all the same."""
    truth = predict(law, D, 0.6, 0.2)
    held = {"alpha": 0, "peak": 0}
    for seed in range(30):
        found = fit_law(law, curve_of(D, truth, noise=0.3, seed=seed), num_resamples=60)
        assert found.alpha_ends is not None
        assert found.peak_ends is not None
        held["alpha"] += found.alpha_ends[0] <= 0.6 <= found.alpha_ends[1]
        low, high = (math.inf if end is None else end for end in found.peak_ends)
        held["peak"] += low <= highest(law, 0.6, 0.2) <= high
    assert min(held.values()) >= 24  # 28 of 30 expected at 95%
    few, many = (fit_law(law, curve_of(D, truth, prompts=n, noise=0.3), num_resamples=60) for n in (20, 500))
    assert few.alpha_ends is not None
    assert many.alpha_ends is not None
    assert few.alpha_ends[1] - few.alpha_ends[0] > 2 * (many.alpha_ends[1] - many.alpha_ends[0])


def test_what_cannot_be_known_is_said() -> None:
    with pytest.raises(DataError, match="points away from the reference"):
        fit("rl", np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.5]))
    alone = fit_law("rl", curve_of(D, predict("rl", D, 0.6, 0.2), prompts=2))
    assert alone.alpha == pytest.approx(0.6, abs=1e-6)
    assert alone.alpha_ends is None
    flat = fit_law("rl", curve_of(D, np.zeros(15)), num_resamples=20)
    assert flat.r2 is None  # nothing varies that could be explained
    assert flat.r2_ends is None
    rises = fit_law("best_of_n", curve_of(D, 0.5 * D + 0.01 * D**2))
    assert rises.peak_sqrt_kl is None
    assert rises.peak_ends == (None, None)


def test_a_peak_is_found_where_gold_falls_and_not_on_a_rise_or_a_plateau() -> None:
    falls = find_peak(curve_of(D, predict("best_of_n", D, 0.6, 0.2), noise=0.1))
    assert falls.found
    assert falls.d == pytest.approx(1.5, abs=0.21)
    assert falls.d_ends[0] is not None
    assert falls.d_ends[0] <= falls.d
    assert falls.drop.value == pytest.approx(0.45, abs=0.06)  # 0.45 at d = 1.5, 0 at d = 3
    curve = curve_of(D, predict("best_of_n", D, 0.6, 0.2), noise=0.5)
    wide, narrow = (find_peak(curve, confidence=confidence) for confidence in (0.95, 0.2))
    assert narrow.drop.high - narrow.drop.low < 0.5 * (wide.drop.high - wide.drop.low)
    assert None not in (*narrow.d_ends, *wide.d_ends)
    assert np.ptp(np.array(narrow.d_ends, float)) < np.ptp(np.array(wide.d_ends, float))
    assert not find_peak(curve_of(D, 0.5 * D, noise=0.1)).found
    worse = find_peak(curve_of(D, -0.1 * D, noise=0.1))
    assert (worse.index, worse.d, worse.gain, worse.found) == (-1, 0.0, 0.0, True)  # the reference is the best
    assert beyond_peak(curve_of(D, -0.1 * D), worse) is None
    # The highest of 15 noisy points on a plateau stands above the last one by chance; at its own peak the fall would be
    # significant in about a quarter of the cases.
    claimed = sum(
        find_peak(curve_of(D, np.zeros(15), noise=0.5, seed=seed), num_resamples=2).found for seed in range(200)
    )
    assert claimed <= 12


def test_the_true_law_foretells_what_comes_after_the_peak() -> None:
    for law in LAWS:
        far = np.linspace(0.2, 8.0, 30)
        curve = curve_of(far, predict(law, far, 0.6, 0.2))
        found = beyond_peak(curve, find_peak(curve))
        assert found is not None
        assert min(found.rmse, key=lambda name: found.rmse[name]) == law
        assert found.rmse[law] < 1e-6
        assert found.num_below + found.num_beyond == 30
    rising = curve_of(D, 0.5 * D)
    assert beyond_peak(rising, find_peak(rising)) is None


def test_gold_at_equal_kl_by_hand() -> None:
    """The first has 0.2 and 0.5 at the second's d = 0.5 and 1.5; the second's point at d = 3 is beyond the first's."""
    first = curve_of(np.array([1.0, 2.0]), np.array([0.4, 0.6]))
    second = curve_of(np.array([0.5, 1.5, 3.0]), np.array([0.1, 0.3, 9.0]))
    found = more_gold_at_equal_kl(first, second, num_resamples=20)
    assert found is not None
    assert found["value"] == pytest.approx(((0.2 - 0.1) + (0.5 - 0.3)) / 2)
    assert found["num_points"] == 2
    turned = Curve(kl=first.kl[:, ::-1], gain=first.gain[:, ::-1])  # whatever the order of its points
    assert more_gold_at_equal_kl(turned, second, num_resamples=20) == found
    assert more_gold_at_equal_kl(first, curve_of(np.array([3.0]), np.array([1.0]))) is None


def test_a_prompt_that_stands_twice_counts_once() -> None:
    """A file with every prompt twice has the intervals of the file with every prompt once; as units of their own, its
    rows would have narrower ones."""
    once = curve_of(D, predict("best_of_n", D, 0.6, 0.2), noise=0.3)
    rows = np.repeat(np.arange(len(once.kl)), 2)
    twice = Curve(kl=once.kl[rows], gain=once.gain[rows], clusters=rows)
    apart = Curve(kl=once.kl[rows], gain=once.gain[rows])
    for law in LAWS:
        assert fit_law(law, twice).alpha_ends == pytest.approx(fit_law(law, once).alpha_ends)
    one, two, wrong = (find_peak(curve) for curve in (once, twice, apart))
    assert (two.drop.value, two.drop.low, *two.d_ends) == pytest.approx((one.drop.value, one.drop.low, *one.d_ends))
    assert two.drop.clusters == len(once.kl)
    assert wrong.drop.high - wrong.drop.low < 0.8 * (two.drop.high - two.drop.low)
    flat = [Curve(kl=curve.kl, gain=0 * curve.gain, clusters=curve.clusters) for curve in (once, twice)]
    single, double = (more_gold_at_equal_kl(curve, other) for curve, other in zip((once, twice), flat, strict=True))
    assert double == pytest.approx(single)
