"""A p-value is never too small, by enumeration; effects by hand; the smallest shift is found as often as it says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import Table

from assent.statistics.homogeneity import (
    POWER,
    area_under_curve,
    overdispersion,
    psi,
    shift,
    slope_of_selection,
    smallest_share,
    tails,
)
from assent.statistics.sequential import spent_on

LEVELS = (0.05, 0.01, 1e-3, 1e-5, 1e-8, 1e-12)


def p_of(strata: list[tuple[int, int, int, int]]) -> float:
    """p-value of (successes, rows) of the window and (successes, rows) of all, for each stratum."""
    columns = np.array(strata, dtype=float).T[:, :, None]
    return float(tails(columns[0], columns[2], columns[1], columns[3])[0])


@pytest.mark.parametrize(("rows", "total"), [(5, 40), (20, 40), (30, 40), (12, 90), (60, 120), (7, 500)])
def test_a_p_value_is_never_too_small(rows: int, total: int) -> None:
    """Whatever the margins: the probability of a p-value of at most a is at most a. Exact, over all outcomes."""
    for successes in range(total + 1):
        outcomes = np.arange(max(0, successes - (total - rows)), min(successes, rows) + 1)
        chances = stats.hypergeom.pmf(outcomes, total, successes, rows)
        p_values = np.array([p_of([(int(k), rows, successes, total)]) for k in outcomes])
        for level in LEVELS:
            assert chances[p_values <= level].sum() <= level * (1 + 1e-9), (successes, level)


def test_nor_is_one_over_strata() -> None:
    margins = [(6, 10, 24), (9, 4, 18)]  # rows, successes, all
    spaces = [np.arange(max(0, m - (t - n)), min(m, n) + 1) for n, m, t in margins]
    chances, p_values = [], []
    for ks in itertools.product(*spaces):
        chances.append(math.prod(stats.hypergeom.pmf(k, t, m, n) for k, (n, m, t) in zip(ks, margins, strict=True)))
        p_values.append(p_of([(int(k), n, m, t) for k, (n, m, t) in zip(ks, margins, strict=True)]))
    assert sum(chances) == pytest.approx(1)
    for level in LEVELS[:4]:
        assert np.array(chances)[np.array(p_values) <= level].sum() <= level


def test_it_is_not_much_larger_than_the_exact_one() -> None:
    """A rare success, a common one beside a large baseline, and one beside a small one."""
    for k, rows, successes, total in ((25, 200, 60, 4000), (130, 200, 2000, 4000), (340, 520, 690, 1210)):
        exact = 2 * stats.hypergeom.sf(k - 1, total, successes, rows)
        assert exact <= p_of([(k, rows, successes, total)]) < exact**0.85


def test_a_shift_by_hand() -> None:
    window, base = np.array([[10.0, 10.0, 20.0]]), np.array([[50.0, 30.0, 20.0]])
    ordered = shift(window, base, ordered=True)
    assert ordered.difference == pytest.approx(20 / 40 - 80 / 100)  # at most the second category
    assert (ordered.cut, ordered.share) == (1, pytest.approx(0.5))
    named = shift(window, base, ordered=False)
    assert (named.cut, named.difference, named.share) == (2, pytest.approx(0.3), pytest.approx(0.5))
    assert (named.rows, named.base_rows) == (40, 100)
    a, b = np.array([10.5, 10.5, 20.5]) / 41.5, np.array([20.5, 12.5, 8.5]) / 41.5
    assert psi(np.array([10.0, 10, 20]), np.array([20.0, 12, 8])) == pytest.approx(sum((a - b) * np.log(a / b)))
    assert named.psi == pytest.approx(sum((a - b) * np.log(a / b)))


def test_another_mix_of_strata_is_no_shift() -> None:
    base = np.array([[900.0, 100.0], [100.0, 900.0]])
    window = np.array([[9.0, 1.0], [90.0, 810.0]])
    assert shift(window, base, ordered=False).difference == pytest.approx(0)
    assert shift(window, base, ordered=False).p_value > 0.5
    assert shift(window, base, ordered=False).raw == pytest.approx(99 / 910 - 0.5)
    whole = shift(window.sum(axis=0)[None], base.sum(axis=0)[None], ordered=False)
    assert whole.p_value < 1e-20  # without strata it would be one


def test_a_stratum_that_one_side_lacks_is_left_out() -> None:
    alone = shift(np.array([[5.0, 5.0], [7.0, 0.0]]), np.array([[50.0, 50.0], [0.0, 0.0]]), ordered=False)
    assert (alone.rows, alone.difference) == (10, 0)
    nothing = shift(np.zeros((1, 2)), np.ones((1, 2)), ordered=False)
    assert (nothing.p_value, nothing.rows) == (1, 0)


def test_inflation_takes_rows_away() -> None:
    window, base = np.array([[40.0, 60.0]]), np.array([[500.0, 500.0]])
    plain, inflated = (shift(window, base, ordered=False, inflation=phi).p_value for phi in (1.0, 4.0))
    quarter = shift(window / 4, base / 4, ordered=False).p_value
    assert plain < inflated == pytest.approx(quarter, rel=0.01)


def test_the_smallest_share_is_found_as_often_as_it_says() -> None:
    rng, level = np.random.default_rng(0), 1e-4
    rows, base_rows, share = 2000, 6000, 0.3
    reach = smallest_share(share, rows, base_rows, level=level)
    found = 0
    for _ in range(400):
        k, other = rng.binomial(rows, share + reach), rng.binomial(base_rows, share)
        found += p_of([(k, rows, k + other, rows + base_rows)]) <= level
    assert abs(found / 400 - POWER) < 0.1
    assert smallest_share(0.5, 0, 10, level=level) == 1


def test_overdispersion_is_pearsons() -> None:
    days = np.array([[20.0, 30.0], [25.0, 25.0], [40.0, 10.0]])
    ratio, p_value = overdispersion(days)
    reference = stats.chi2_contingency(days, correction=False)
    assert (ratio, p_value) == (pytest.approx(reference.statistic / 2), pytest.approx(reference.pvalue))
    assert overdispersion(days[:1]) == (1, 1)


def test_area_under_curve_counts_ties_half() -> None:
    area, _ = area_under_curve(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    assert area == pytest.approx((0.5 + 1 + 1 + 1) / 4)


def test_the_slope_of_selection_is_cochran_and_armitages() -> None:
    chosen, left = np.array([5.0, 9.0, 30.0]), np.array([60.0, 40.0, 50.0])
    slope, variance = slope_of_selection(chosen, left)
    test = Table(np.column_stack([chosen, left]), shift_zeros=False).test_ordinal_association(
        col_scores=np.array([1, 0])
    )
    assert slope**2 / variance == pytest.approx(test.zscore**2, rel=1e-6)
    assert slope > 0
    assert slope_of_selection(np.zeros(3), left) == (0, math.inf)


def test_what_the_days_spend_sums_to_one() -> None:
    spent = [spent_on(day) for day in range(1, 10_001)]
    assert sum(spent) == pytest.approx(1 - 1 / math.log2(10_002))
    assert all(later < earlier for earlier, later in itertools.pairwise(spent))
    with pytest.raises(ValueError):
        spent_on(0)
