"""The laws of over-optimisation (Gao, Schulman and Hilton, arXiv:2210.10760, section 3), fitted to a measured curve.

With d = √KL and the gold reward's gain over the reference (0 at d = 0):

    best_of_n   d (α − β d)        highest at d = α / 2β
    rl          d (α − β log d)    highest at d = exp(α/β − 1)

A curve has C points (values of N, checkpoints, betas), all measured on the same P prompts, so intervals are over
prompts: rows of one prompt are one unit, and are drawn together. Legend: P rows, C points, U units.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from assent.errors import DataError
from assent.statistics.intervals import Estimate, mean_interval

Law = Literal["best_of_n", "rl"]
LAWS: tuple[Law, ...] = ("best_of_n", "rl")
FEWEST = 3
"""Points that fitting two parameters needs, and prompts that resampling prompts needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """`kl` (P, C) in nats per completion, and `gain` (P, C) in gold over the reference, by prompt and point."""

    kl: np.ndarray
    gain: np.ndarray
    clusters: np.ndarray | None = None
    """(P,) the unit that each row belongs to, 0 … U - 1. None: each row is one."""

    def means(self, prompts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Means over the prompts: (C,) d and (C,) gain. An estimated KL below 0 counts as 0. `prompts`: only these."""
        kl, gain = (self.kl, self.gain) if prompts is None else (self.kl[prompts], self.gain[prompts])
        return np.sqrt(np.maximum(kl.mean(0), 0.0)), gain.mean(0)

    @property
    def unit(self) -> np.ndarray:
        """(P,) the unit of each row."""
        return np.arange(len(self.kl)) if self.clusters is None else self.clusters


@dataclass(frozen=True, slots=True, kw_only=True)
class LawFit:
    """A least-squares fit. Ends are percentiles of a bootstrap over prompts; None if there are too few prompts.

    `peak_sqrt_kl` is the d at which the fitted law is highest. It, or an end of it, is None if the law only rises.
    """

    law: Law
    alpha: float
    beta: float
    r2: float | None
    peak_sqrt_kl: float | None
    alpha_ends: tuple[float, float] | None
    beta_ends: tuple[float, float] | None
    r2_ends: tuple[float, float] | None
    peak_ends: tuple[float | None, float | None] | None

    def as_dict(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The highest measured gold: `index` of its point, and d with its ends over bootstrap draws of prompts (None: too
    few prompts). `drop`: how far gold has fallen at the farthest point.

    `drop` takes the peak for each half of the prompts from the other half: a peak is too high on its own prompts.
    """

    index: int
    d: float
    d_ends: tuple[float | None, float | None]
    gain: float
    drop: Estimate

    @property
    def found(self) -> bool:
        """Whether gold falls after the peak by more than chance."""
        return self.drop.low > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """Root mean squared error of both laws' predicted gain on the `num_beyond` points after the peak; the laws are
    fitted to the `num_below` points up to it."""

    num_below: int
    num_beyond: int
    rmse: dict[Law, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def predict(law: Law, d: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """(C,) the gain that a law predicts at d (C,) ≥ 0."""
    if law == "best_of_n":
        return d * (alpha - beta * d)
    return alpha * d - beta * d * np.log(np.where(d > 0, d, 1.0))


def fit(law: Law, d: np.ndarray, gain: np.ndarray) -> tuple[float, float, float]:
    """α, β and R² of the law on points d (C,), gain (C,). Raises DataError for fewer than 3 points with d > 0."""
    from scipy.optimize import curve_fit

    used = d > 0
    if used.sum() < FEWEST:
        raise DataError(
            "fitting a law needs points away from the reference", got=f"{used.sum()} with KL > 0", expected="3"
        )
    x, y = d[used], gain[used]
    (alpha, beta), _ = curve_fit(lambda x, a, b: predict(law, x, a, b), x, y, p0=(1.0, 0.1))
    spread = float(((y - y.mean()) ** 2).sum())
    residual = float(((y - predict(law, x, alpha, beta)) ** 2).sum())
    return float(alpha), float(beta), 1 - residual / spread if spread > 0 else math.nan


def highest(law: Law, alpha: float, beta: float) -> float:
    """The d at which the law is highest; infinite if it only rises, 0 if it only falls."""
    if law == "best_of_n":
        return max(alpha, 0.0) / (2 * beta) if beta > 0 else math.inf
    return math.exp(min(alpha / beta - 1, 700.0)) if beta > 0 else math.inf


def fit_law(law: Law, curve: Curve, *, seed: int = 0, confidence: float = 0.95, num_resamples: int = 400) -> LawFit:
    """The law fitted to the curve's means. Raises DataError if fewer than 3 points have KL > 0."""

    def statistic(prompts: np.ndarray | None) -> tuple[float, float, float, float]:
        alpha, beta, r2 = fit(law, *curve.means(prompts))
        return alpha, beta, r2, highest(law, alpha, beta)

    alpha, beta, r2, peak = statistic(None)
    drawn = resampled(statistic, curve.unit, seed=seed, num_resamples=num_resamples)
    ends = [None] * 4 if drawn is None else [_ends(row, confidence) for row in drawn]
    return LawFit(
        law=law,
        alpha=alpha,
        beta=beta,
        r2=_finite(r2),
        peak_sqrt_kl=_finite(peak),
        alpha_ends=ends[0],
        beta_ends=ends[1],
        r2_ends=ends[2],
        peak_ends=None if ends[3] is None else (_finite(ends[3][0]), _finite(ends[3][1])),
    )


def resampled(
    statistic: Callable[[np.ndarray], Any], unit: np.ndarray, *, seed: int, num_resamples: int
) -> np.ndarray | None:
    """(figures, resamples) of a statistic of the rows' indices, over bootstrap draws of units; None: too few units.

    unit   (P,) the unit of each row, 0 … U - 1; all rows of a unit are drawn together
    """
    from scipy.optimize import OptimizeWarning
    from scipy.stats import DegenerateDataWarning, bootstrap

    rows = [np.flatnonzero(unit == u) for u in range(int(unit.max()) + 1)]
    if len(rows) < FEWEST:
        return None

    def over_draws(places: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = np.atleast_2d(places).astype(np.int64)
        together = (np.concatenate([rows[u] for u in draw]) for draw in drawn)
        return np.array([_or_nan(statistic, places) for places in together], dtype=np.float64).T

    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        # figures may be infinite or unknown; their standard error, interval and covariance are not used
        warnings.simplefilter("ignore", DegenerateDataWarning)
        warnings.simplefilter("ignore", OptimizeWarning)
        found = bootstrap(
            (np.arange(len(rows)),),
            over_draws,
            n_resamples=num_resamples,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return np.atleast_2d(found.bootstrap_distribution)


def find_peak(curve: Curve, *, seed: int = 0, confidence: float = 0.95, num_resamples: int = 400) -> Peak:
    """The highest of the points and the reference (d = 0, gain 0), and how far gold has fallen at the farthest point.

    `index` is -1 for the reference.
    """
    d, gain = curve.means()
    farthest = int(np.argmax(d))
    heights = np.concatenate([np.zeros((len(curve.gain), 1)), curve.gain], axis=1)
    index = int(np.argmax(heights.mean(0))) - 1
    halves = curve.unit % 2
    drops = np.empty(len(heights))
    for half in (0, 1):
        own, other = halves == half, halves != half
        at = int(np.argmax(heights[other if other.any() else own].mean(0)))
        drops[own] = heights[own, at] - curve.gain[own, farthest]
    drop = mean_interval(drops, clusters=curve.unit, confidence=confidence)

    def place(prompts: np.ndarray) -> tuple[float]:
        where, height = curve.means(prompts)
        return (float(where[np.argmax(height)]) if height.max() > 0 else 0.0,)

    drawn = resampled(place, curve.unit, seed=seed, num_resamples=num_resamples)
    ends = None if drawn is None else _ends(drawn[0], confidence)
    at_reference = index < 0
    return Peak(
        index=index,
        d=0.0 if at_reference else float(d[index]),
        d_ends=ends or (None, None),
        gain=0.0 if at_reference else float(gain[index]),
        drop=drop,
    )


def beyond_peak(curve: Curve, peak: Peak) -> Beyond | None:
    """Which law, fitted up to the measured peak, predicts the rest. None if there are fewer than 3 points up to the
    peak, or none after it."""
    d, gain = curve.means()
    below = (d <= peak.d) & (d > 0)
    after = d > peak.d
    if below.sum() < FEWEST or not after.any():
        return None
    rmse = {}
    for law in LAWS:
        alpha, beta, _ = fit(law, d[below], gain[below])
        rmse[law] = float(np.sqrt(((predict(law, d[after], alpha, beta) - gain[after]) ** 2).mean()))
    return Beyond(num_below=int(below.sum()), num_beyond=int(after.sum()), rmse=rmse)


def more_gold_at_equal_kl(
    first: Curve, second: Curve, *, seed: int = 0, confidence: float = 0.95, num_resamples: int = 400
) -> dict[str, Any] | None:
    """Gain of the first curve minus that of the second: the mean over the second's points that are within the first's
    range, with a percentile interval over prompts. The first is interpolated linearly in d between (0, 0) and its
    points.

    None if the second has no point within the first's range.
    """

    def statistic(prompts: np.ndarray | None) -> tuple[float]:
        d, gain = first.means(prompts)
        where, other = second.means(prompts)
        order = np.argsort(d)
        shared = (where > 0) & (where <= d.max())
        if not shared.any():
            return (math.nan,)
        along = np.interp(where[shared], np.concatenate([[0.0], d[order]]), np.concatenate([[0.0], gain[order]]))
        return (float((along - other[shared]).mean()),)

    value = statistic(None)[0]
    if math.isnan(value):
        return None
    d_first, d_second = first.means()[0], second.means()[0]
    drawn = resampled(statistic, first.unit, seed=seed, num_resamples=num_resamples)
    low, high = (None if drawn is None else _ends(drawn[0], confidence)) or (None, None)
    used = int(((d_second > 0) & (d_second <= d_first.max())).sum())
    return {"value": value, "low": low, "high": high, "num_points": used, "clusters": int(first.unit.max()) + 1}


def _or_nan(statistic: Callable[[np.ndarray], Any], places: np.ndarray) -> Any:
    """NaN for a resample without the figure (if all its KL is 0, say); the percentiles leave NaN out."""
    try:
        return statistic(places)
    except DataError:
        return (math.nan,) * 4


def _ends(values: np.ndarray, confidence: float) -> tuple[float, float] | None:
    """Percentiles that occur as values (an infinite one means no peak); None if most resamples have no value."""
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail], method="closest_observation")
    return float(low), float(high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
