"""Do a window of rows and a baseline come from one distribution? Exact bounds, stratified, and what could be found.

Given a stratum's margins, the number of successes in the window is hypergeometric where nothing has moved: no unknown
parameter is left (Fisher 1935). Its tail is bounded by a binomial's, and a sum over strata by the binomial of the mean
probability (Hoeffding: JASA 58 (1963), section 6, and Ann. Math. Stat. 27 (1956)). So a p-value is no approximation
that fails far out in the tails, which is where a test stands that is asked on every day.

Legend: S strata, K categories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

Table = NDArray[np.float64]

POWER = 0.8
"""Of the smallest shift that is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What a window says beside a baseline.

    p_value     two-sided, over all cuts (Bonferroni)
    difference  the largest difference of shares at one cut, window minus baseline, at the window's mix of strata. For
                ordered categories this is the signed Kolmogorov–Smirnov distance
    cut         the category of that difference; for ordered ones, the last category below the cut
    share       the window's share there: of that category, or of it and those before it
    psi         population stability index, Σ (a − b) ln(a / b)
    rows        rows of the window that were compared; base_rows of the baseline
    """

    p_value: float
    difference: float
    cut: int
    share: float
    psi: float
    rows: float
    base_rows: float


def shift(window: Table, baseline: Table, *, ordered: bool, inflation: float = 1.0) -> Shift:
    """Compares counts (S, K) of a window with those of a baseline, stratum by stratum.

    ordered    the cuts are between neighbouring categories; otherwise each category is one against the rest
    inflation  by how much counts vary more than independent rows do (at least 1): they are divided by it
    A stratum that one side lacks says nothing and is left out. Without any row the p-value is 1.
    """
    window, baseline = np.asarray(window, dtype=float), np.asarray(baseline, dtype=float)
    n, b = window.sum(axis=1), baseline.sum(axis=1)
    both = (n > 0) & (b > 0)
    if not both.any():
        return Shift(p_value=1.0, difference=0.0, cut=0, share=0.0, psi=0.0, rows=0.0, base_rows=0.0)
    window, baseline, n, b = window[both], baseline[both], n[both], b[both]
    expected = (baseline * (n / b)[:, None]).sum(axis=0)
    seen = window.sum(axis=0)
    share, base_share = seen / n.sum(), expected / n.sum()
    if ordered:
        hits, base_hits = (np.cumsum(part, axis=1)[:, :-1] for part in (window, baseline))
        differences, shares = np.cumsum(share - base_share)[:-1], np.cumsum(share)
    else:
        hits, base_hits, differences, shares = window, baseline, share - base_share, share
    if hits.shape[1] == 2 and not ordered:  # the second is the first, seen from the other side
        hits, base_hits = hits[:, 1:], base_hits[:, 1:]
    p_values = tails(hits, hits + base_hits, n[:, None], (n + b)[:, None], inflation=inflation)
    cut = int(np.argmax(np.abs(differences)))
    return Shift(
        p_value=min(1.0, hits.shape[1] * float(p_values.min())),
        difference=float(differences[cut]),
        cut=cut,
        share=float(shares[cut]),
        psi=psi(seen, expected),
        rows=float(n.sum()),
        base_rows=float(b.sum()),
    )


def tails(hits: Table, all_hits: Table, rows: Table, all_rows: Table, *, inflation: float = 1.0) -> Table:
    """Two-sided p-values (C,) of the number of successes in the window, Σ over strata.

    hits, all_hits   (S, C) successes in the window, and in window and baseline together
    rows, all_rows   (S, 1) or (S, C) rows likewise

    The hypergeometric is the same with successes, failures, the window's rows or the baseline's rows as the draws. Each
    gives a bound; the one of least variance, which follows from the margins alone, is taken.
    """
    k, n, m, total = (part.sum(axis=0) / inflation for part in (hits, rows, all_hits, all_rows))
    mean = (rows * all_hits / np.maximum(all_rows, 1e-300)).sum(axis=0) / inflation  # a stratum without rows adds none
    k, n, m, total = np.broadcast_arrays(k, n, m, total)
    ways = (
        (k, n, mean),  # the window's rows are drawn
        (k, m, mean),  # the successes
        (n - k, total - m, n - mean),  # the failures
        (m - k, total - n, m - mean),  # the baseline's rows
    )
    stacked = np.array(ways)  # (4, 3, C)
    sizes = np.maximum(stacked[:, 1], 1e-300)
    best = np.argmin(stacked[:, 2] * (1 - stacked[:, 2] / sizes), axis=0)
    return binomial_two_sided(*stacked[best, :, np.arange(len(best))].T)


def binomial_two_sided(successes: Table, trials: Table, mean: Table) -> Table:
    """2 · min(P(X ≤ k), P(X ≥ k)) of a binomial, at most 1; counts need not be whole (the incomplete beta function)."""
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.clip(np.where(n > 0, mean / n, 0.0), 0.0, 1.0)
        upper = np.where(k <= 0, 1.0, betainc(np.maximum(k, 1e-12), np.maximum(n - k + 1, 1e-12), p))
        lower = np.where(k >= n, 1.0, betainc(np.maximum(n - k, 1e-12), np.maximum(k + 1, 1e-12), 1 - p))
    return np.minimum(1.0, 2 * np.minimum(upper, lower))


def psi(seen: Table, expected: Table) -> float:
    """Population stability index of two vectors of counts (K,), with half a row added to each category."""
    a, b = np.asarray(seen, dtype=float) + 0.5, np.asarray(expected, dtype=float) + 0.5
    a, b = a / a.sum(), b / b.sum()
    return float(((a - b) * np.log(a / b)).sum())


def smallest_share(share: float, rows: float, base_rows: float, *, level: float, inflation: float = 1.0) -> float:
    """The smallest difference of a share that `tails` finds with probability `POWER` at `level`.

    (z_{1 − level/2} √c + z_{POWER}) √(p (1 − p) (1/n + 1/b)), by the normal approximation, where c is what the bound
    costs: the binomial's variance over the hypergeometric's. At most 1, and 1 with no rows.
    """
    if min(rows, base_rows) <= 0:
        return 1.0
    p = min(max(share, 1 / (2 * base_rows)), 1 - 1 / (2 * base_rows))
    cost = 1 / max(rows / (rows + base_rows), base_rows / (rows + base_rows), p, 1 - p)
    error = math.sqrt(inflation * p * (1 - p) * (1 / rows + 1 / base_rows))
    return min(1.0, reach_of(level, cost=cost) * error)


def reach_of(level: float, *, cost: float = 1.0) -> float:
    """Standard errors by which a difference must be off, so that a two-sided test at `level` finds it with `POWER`.

    cost   by how much the test's variance is larger than the statistic's
    """
    normal = NormalDist()
    return normal.inv_cdf(POWER) - normal.inv_cdf(level / 2) * math.sqrt(cost)


def overdispersion(days: Table) -> tuple[float, float]:
    """How much more days differ than independent rows would: Pearson's χ² of a table (D, K) over its freedom; its
    p-value. (1, 1) where there is nothing to compare."""
    from scipy.stats import chi2

    days = np.asarray(days, dtype=float)
    days = days[days.sum(axis=1) > 0][:, days.sum(axis=0) > 0]
    freedom = (days.shape[0] - 1) * (days.shape[1] - 1)
    if freedom < 1:
        return 1.0, 1.0
    expected = days.sum(axis=1, keepdims=True) * days.sum(axis=0, keepdims=True) / days.sum()
    statistic = float(((days - expected) ** 2 / expected).sum())
    return statistic / freedom, float(chi2.sf(statistic, freedom))


def area_under_curve(scores: Table, other: Table) -> tuple[float, float]:
    """P(a score is above another one), ties counting half, and its two-sided p-value (Mann and Whitney, with ties)."""
    from scipy.stats import mannwhitneyu

    test = mannwhitneyu(scores, other, alternative="two-sided", method="asymptotic")
    return float(test.statistic) / (len(scores) * len(other)), float(test.pvalue)


def slope_of_selection(chosen: Table, left: Table) -> tuple[float, float]:
    """Log-odds of being chosen for each step up an ordered category, and its variance: the score estimate U / V, 1 / V.

    chosen, left   (K,) rows of each category that were chosen, or not
    Cochran (Biometrics 10, 1954) and Armitage: U = Σ k (c_k − E c_k), V = its hypergeometric variance. (0, ∞) without
    rows on both sides or with a single category.
    """
    chosen, left = np.asarray(chosen, dtype=float), np.asarray(left, dtype=float)
    rows = chosen + left
    total, picked = rows.sum(), chosen.sum()
    if total < 2 or picked in (0, total):
        return 0.0, math.inf
    place = np.arange(len(rows))
    mean = (place * rows).sum() / total
    spread = ((place - mean) ** 2 * rows).sum() / (total - 1)
    variance = picked * (total - picked) / total * spread
    if variance <= 0:
        return 0.0, math.inf
    return float(((place - mean) * chosen).sum() / variance), float(1 / variance)
