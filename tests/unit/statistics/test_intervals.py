"""Intervals against hand calculation and against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from assent.errors import DataError
from assent.statistics.intervals import Estimate, difference, mean_interval, paired_difference, proportion_interval

SIMULATIONS = 600
ROOM = 3.3 * math.sqrt(0.95 * 0.05 / SIMULATIONS)
"""Three standard errors of a coverage that is 95% in truth."""


def test_mean_without_clusters_is_students_interval():
    y = [1.0, 2.0, 4.0, 9.0]
    estimate = mean_interval(y)
    standard_error = math.sqrt(sum((v - 4) ** 2 for v in y) / 3 / 4)
    reach = 3.182446305284263 * standard_error  # t quantile 0.975 at 3 degrees of freedom
    assert (estimate.value, estimate.n, estimate.clusters) == (4.0, 4, 4)
    assert estimate.standard_error == pytest.approx(standard_error, rel=1e-12)
    assert (estimate.low, estimate.high) == pytest.approx((4 - reach, 4 + reach), rel=1e-9)


def test_clustered_variance_by_hand():
    # clusters a: 1, 3 and b: 8 and c: 4; mean 4; sums of residuals -4, 4, 0
    estimate = mean_interval([1.0, 3.0, 8.0, 4.0], clusters=["a", "a", "b", "c"])
    assert estimate.standard_error == pytest.approx(math.sqrt(3 / 2 * (16 + 16 + 0) / 16), rel=1e-12)
    assert estimate.clusters == 3


def test_two_way_variance_by_hand():
    # rows: seeds, columns: prompts; seed effects -3, 3, prompt effects -1, 0, 1, and one cell moved by 0.6
    y = np.array([[-4.0, -3.0, -2.0], [2.0, 3.0, 4.6]])
    residual = y - y.mean()
    by_seed = 2 / 1 * (residual.sum(axis=1) ** 2).sum() / 36
    by_prompt = 3 / 2 * (residual.sum(axis=0) ** 2).sum() / 36
    by_cell = 6 / 5 * (residual**2).sum() / 36
    estimate = mean_interval(y.ravel(), clusters=[0, 1, 2] * 2, second_clusters=[0] * 3 + [1] * 3)
    expected = max(by_seed + by_prompt - by_cell, by_seed, by_prompt)
    assert estimate.standard_error == pytest.approx(math.sqrt(expected), rel=1e-9)
    assert estimate.clusters == 2


def test_proportion_is_wilsons_up_to_students_quantile():
    n, wins = 40, 31
    y = [1.0] * wins + [0.0] * (n - wins)
    estimate = proportion_interval(y)
    t = stats.t.ppf(0.975, n - 1)
    p, size = wins / n, (n - 1) / t**2  # p(1-p)/SE² = n - 1 for one value per cluster; in units of z²
    centre, half = (p + 0.5 / size) / (1 + 1 / size), math.sqrt(p * (1 - p) / size + 0.25 / size**2) / (1 + 1 / size)
    assert (estimate.low, estimate.high) == pytest.approx((centre - half, centre + half), rel=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.5, 1.0])
def test_a_proportion_that_does_not_vary_is_not_certain(constant: float):
    estimate = proportion_interval([constant] * 60, clusters=[i // 3 for i in range(60)])
    assert estimate.high - estimate.low > 0.15  # Wilson at 20, not at 60
    assert 0 <= estimate.low <= constant <= estimate.high <= 1


def test_one_cluster_has_no_interval():
    estimate = mean_interval([1.0, 2.0], clusters=["p", "p"])
    assert (estimate.low, estimate.high) == (-math.inf, math.inf)
    assert estimate.as_dict()["low"] is None
    assert estimate.text() == "1.50 (too few)"
    assert Estimate.from_dict(estimate.as_dict()) == estimate
    share = proportion_interval([1.0, 0.0], clusters=["p", "p"])
    assert (share.low, share.high) == (0.0, 1.0)


def test_paired_difference_is_narrower_than_its_parts():
    generator = np.random.default_rng(0)
    prompt = generator.normal(0, 5, 50)
    a, b = prompt + generator.normal(1, 0.1, 50), prompt + generator.normal(0, 0.1, 50)
    difference = paired_difference(a, b)
    assert difference.low > 0.9
    assert difference.high - difference.low < 0.1 * (mean_interval(a).high - mean_interval(a).low)


@pytest.mark.parametrize(
    ("values", "clusters"), [([], None), ([1.0, math.nan], None), ([1.0, math.inf], None), ([1.0, 2.0], ["a"])]
)
def test_bad_values_are_refused(values, clusters):
    with pytest.raises(DataError):
        mean_interval(values, clusters=clusters)


def test_proportions_outside_the_unit_interval_and_unequal_pairs_are_refused():
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        proportion_interval([0.5, 1.5])
    with pytest.raises(DataError, match="equally many"):
        paired_difference([1.0], [1.0, 2.0])


def test_a_difference_of_independent_values_by_hand():
    found = difference([1.0, 3.0], [2.0, 2.0, 8.0])
    # squared residuals 2 and 24, over the squared numbers of values; 5 / 3 for two means of five values
    standard_error = math.sqrt((2 / 4 + 24 / 9) * 5 / 3)
    assert (found.value, found.n, found.clusters) == (-2.0, 5, 5)
    assert found.standard_error == pytest.approx(standard_error, rel=1e-12)
    assert found.high == pytest.approx(-2 + 2.7764451051977987 * standard_error)  # t quantile at 4 degrees of freedom


def test_a_difference_knows_the_units_that_both_sides_have():
    rng = np.random.default_rng(5)
    units = rng.normal(0, 3, 30)
    a, b = units + rng.normal(1, 1, 30), units + rng.normal(0, 1, 30)
    names = list(range(30))
    known = difference(a, b, clusters_of_a=names, clusters_of_b=names)
    pairs = paired_difference(a, b)
    assert known.standard_error == pytest.approx(pairs.standard_error * math.sqrt(59 / 58), rel=1e-9)
    assert difference(a, b).standard_error > 2 * known.standard_error
    assert math.isinf(difference([1.0, 2.0], [3.0, 4.0], clusters_of_a=["p", "p"], clusters_of_b=["p", "q"]).high)
    with pytest.raises(DataError, match="needs a cluster"):
        difference(a, b, clusters_of_a=names[1:])


def test_a_difference_covers():
    """Prompts with several values, some of them on both sides."""
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(SIMULATIONS):
        effects = rng.normal(0, 1, 40)
        of_a, of_b = rng.integers(0, 25, 60), rng.integers(15, 40, 60)
        found = difference(
            effects[of_a] + rng.normal(0.5, 1, 60), effects[of_b] + rng.normal(0, 1, 60),
            clusters_of_a=of_a, clusters_of_b=of_b,
        )  # fmt: skip
        covered += found.low <= 0.5 <= found.high
    assert covered / SIMULATIONS > 0.95 - 0.03 - ROOM  # few clusters of uneven size: a little less than 95%


def test_clustered_interval_covers_and_the_plain_one_does_not():
    generator = np.random.default_rng(1)
    prompts, samples = 60, 4
    clusters = np.repeat(np.arange(prompts), samples)
    covered = {"clustered": 0, "plain": 0}
    for _ in range(SIMULATIONS):
        y = (generator.normal(0, 1, (prompts, 1)) + generator.normal(0, 0.7, (prompts, samples))).ravel()
        for name, names in (("clustered", clusters), ("plain", None)):
            estimate = mean_interval(y, clusters=names)
            covered[name] += estimate.low <= 0 <= estimate.high
    assert abs(covered["clustered"] / SIMULATIONS - 0.95) < ROOM
    assert covered["plain"] / SIMULATIONS < 0.85


def test_interval_over_seeds_and_prompts_covers_and_prompts_alone_do_not():
    generator = np.random.default_rng(2)
    seeds, prompts = 5, 40
    by_prompt, by_seed = np.tile(np.arange(prompts), seeds), np.repeat(np.arange(seeds), prompts)
    covered = {"both": 0, "prompts": 0}
    for _ in range(SIMULATIONS):
        effects = generator.normal(0, 0.3, (seeds, 1)) + generator.normal(0, 0.8, (1, prompts))
        y = (effects + generator.normal(0, 0.5, (seeds, prompts))).ravel()
        both = mean_interval(y, clusters=by_prompt, second_clusters=by_seed)
        alone = mean_interval(y, clusters=by_prompt)
        covered["both"] += both.low <= 0 <= both.high
        covered["prompts"] += alone.low <= 0 <= alone.high
    assert covered["both"] / SIMULATIONS > 0.95 - ROOM  # errs to the wide side, by construction
    assert covered["prompts"] / SIMULATIONS < 0.9


@pytest.mark.parametrize("rate", [0.5, 0.85])
def test_clustered_proportion_covers(rate: float):
    generator = np.random.default_rng(3)
    prompts, samples = 80, 3
    clusters = np.repeat(np.arange(prompts), samples)
    covered = 0
    for _ in range(SIMULATIONS):
        chance = generator.beta(2 * rate, 2 * (1 - rate), (prompts, 1))  # prompts differ in how often they are won
        y = (generator.random((prompts, samples)) < chance).astype(float).ravel()
        estimate = proportion_interval(y, clusters=clusters)
        covered += estimate.low <= rate <= estimate.high
    assert abs(covered / SIMULATIONS - 0.95) < ROOM
