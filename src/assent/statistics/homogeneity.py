"""Do a window of rows and a baseline come from one distribution? Stratified, far into the tails, and what was findable.

Given a stratum's margins, the number of successes in the window is hypergeometric where nothing has moved: no unknown
parameter is left (Fisher 1935). A hypergeometric is a sum of independent Bernoulli variables (Vatutin and Mikhailov,
Theory Probab. Appl. 27, 1982), and so is its sum over strata. Its tail is that of the binomial with its mean and
variance, in the worst of the four ways to count it: successes or failures, in the window or in the baseline. The tests
enumerate margins: the p-value is never too small, also at 1e-12. A χ² of a rare success is wrong by orders of magnitude
there, and there is where a test stands that is asked on every day.

Legend: S strata, C cuts, K categories.
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
    raw         the difference at that cut without strata
    share       the window's share there: of that category, or of it and those before it
    psi         population stability index, Σ (a − b) ln(a / b)
    rows        rows of the window that were compared; base_rows of the baseline
    """

    p_value: float
    difference: float
    cut: int
    raw: float
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
        return Shift(p_value=1.0, difference=0.0, cut=0, raw=0.0, share=0.0, psi=0.0, rows=0.0, base_rows=0.0)
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
    plain = baseline.sum(axis=0) / baseline.sum()
    raw = float(shares[cut] - (np.cumsum(plain) if ordered else plain)[cut])
    return Shift(
        p_value=min(1.0, hits.shape[1] * float(p_values.min())),
        difference=float(differences[cut]),
        cut=cut,
        raw=raw,
        share=float(shares[cut]),
        psi=psi(seen, expected),
        rows=float(n.sum()),
        base_rows=float(b.sum()),
    )


def tails(hits: Table, all_hits: Table, rows: Table, all_rows: Table, *, inflation: float = 1.0) -> Table:
    """Two-sided p-values (C,) of the number of successes in the window, over all strata.

    hits, all_hits   (S, C) successes in the window, and in window and baseline together
    rows, all_rows   (S, 1) or (S, C) rows likewise
    inflation        counts are divided by it
    """
    safe = np.maximum(all_rows, 1e-300)  # a stratum without rows adds nothing
    means = rows * all_hits / safe
    variances = means * (1 - all_hits / safe) * (all_rows - rows) / np.maximum(all_rows - 1, 1.0)
    summed = [part.sum(axis=0) / inflation for part in (hits, all_hits, rows, all_rows, means, variances)]
    k, m, n, total, mean, variance = np.broadcast_arrays(*summed)
    ways = ((k, mean, 1), (n - k, n - mean, -1), (m - k, m - mean, -1), (total - n - m + k, total - n - m + mean, 1))
    upper, lower = np.zeros_like(mean), np.zeros_like(mean)
    for count, expected, sign in ways:
        above, below = _matched_tails(count, np.maximum(expected, 1e-300), variance)
        upper = np.maximum(upper, above if sign > 0 else below)
        lower = np.maximum(lower, below if sign > 0 else above)
    p_values = np.minimum(1.0, 2 * np.minimum(upper, lower))
    return np.where(variance > TINY, p_values, 1.0)  # the margins leave no choice


TINY = 1e-9


def _matched_tails(count: Table, mean: Table, variance: Table) -> tuple[Table, Table]:
    """P(X ≥ count) and P(X ≤ count) of the binomial with this mean and variance (its size need not be whole)."""
    variance = np.minimum(variance, mean * (1 - 1e-9))
    share, size = 1 - variance / mean, mean**2 / (mean - variance)
    k = np.maximum(count, 0.0)
    upper = np.where(k <= 0, 1.0, betainc(np.maximum(k, TINY), np.maximum(size - k + 1, TINY), share))
    upper = np.where(k >= size + 1, 0.0, upper)
    lower = np.where(k >= size, 1.0, betainc(np.maximum(size - k, TINY), k + 1, 1 - share))
    return upper, lower


def psi(seen: Table, expected: Table) -> float:
    """Population stability index of two vectors of counts (K,), with half a row added to each category."""
    a, b = np.asarray(seen, dtype=float) + 0.5, np.asarray(expected, dtype=float) + 0.5
    a, b = a / a.sum(), b / b.sum()
    return float(((a - b) * np.log(a / b)).sum())


def smallest_share(share: float, rows: float, base_rows: float, *, level: float, inflation: float = 1.0) -> float:
    """The smallest difference of a share that is found with probability `POWER` by a two-sided test at `level`.

    (z_{1 − level/2} + z_{POWER}) √(p (1 − p) (1/n + 1/b)), by the normal approximation; at most 1, and 1 with no rows.
    """
    if min(rows, base_rows) <= 0:
        return 1.0
    p = min(max(share, 1 / (2 * base_rows)), 1 - 1 / (2 * base_rows))
    return min(1.0, reach_of(level) * math.sqrt(inflation * p * (1 - p) * (1 / rows + 1 / base_rows)))


def reach_of(level: float) -> float:
    """Standard errors by which a difference must be off, so that a two-sided test at `level` finds it with `POWER`."""
    normal = NormalDist()
    return normal.inv_cdf(POWER) - normal.inv_cdf(level / 2)


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
