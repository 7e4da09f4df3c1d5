"""Is a reward model as sure as it is right, and does it score length rather than quality?

For a pair, d is the score of the chosen completion minus that of the rejected one; σ(d) is the probability that the
model assigns to the label (Bradley and Terry). Legend: B pairs, C clusters (prompts).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit

from assent.errors import DataError
from assent.statistics.intervals import Clusters, Estimate, cluster_codes, proportion_interval

RESAMPLES = 1000
NUM_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Pairs whose stated probability of being right is in [low, high), and how often the model is right on them."""

    low: float
    high: float
    stated: float
    right: Estimate

    def as_dict(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "stated": self.stated, "right": self.right.as_dict()}


def rightness(differences: np.ndarray) -> np.ndarray:
    """(B,) 1 if the chosen completion scores higher, ½ if both score the same, otherwise 0."""
    return 0.5 * (1.0 + np.sign(differences))


def _bins(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) stated probability of being right, σ(|d|) in [½, 1], and its bin out of NUM_BINS equal ones."""
    stated = expit(np.abs(differences))
    return stated, np.minimum(((stated - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)


def reliability(
    differences: np.ndarray, *, clusters: Clusters | None = None, confidence: float = 0.95
) -> tuple[ReliabilityBin, ...]:
    """The reliability curve over the bins that hold pairs, from the least sure to the surest."""
    stated, bins = _bins(differences)
    names = np.arange(len(differences)) if clusters is None else np.asarray(cluster_codes(clusters))
    curve = []
    for b in np.unique(bins):
        inside = bins == b
        right = proportion_interval(
            rightness(differences)[inside], clusters=names[inside].tolist(), confidence=confidence
        )
        low, width = 0.5 + int(b) * 0.5 / NUM_BINS, 0.5 / NUM_BINS
        curve.append(ReliabilityBin(low=low, high=low + width, stated=float(stated[inside].mean()), right=right))
    return tuple(curve)


def expected_calibration_error(differences: np.ndarray) -> float:
    """Σ_b n_b/B · |share right − mean stated probability| over equal bins of the stated probability (Guo et al.,
    arXiv:1706.04599, eq. 3). It averages absolute values, so chance alone makes it a little larger than zero."""
    stated, bins = _bins(differences)
    gaps = np.bincount(bins, weights=rightness(differences) - stated, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(differences))


def calibration_error(
    differences: np.ndarray, *, clusters: Clusters | None = None, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """The expected calibration error, with an interval for its value over infinitely many pairs.

    A resample is noisier than the sample, as the sample is noisier than the truth, and noise raises an average of
    absolute values. So the interval is the "basic" one, which reflects the bootstrap's quantiles at the estimate
    (Davison and Hinkley 1997, §5.2.1); it is cut to [0, 1] and contains the estimate. It begins at 0 if a calibrated
    model could show as large an error by chance. How large that is comes from the wild bootstrap, which draws a sign
    for each cluster (Cameron, Gelbach and Miller, REStat 90, 2008).
    """
    drawn = cluster_bootstrap(
        expected_calibration_error, differences, clusters=clusters, confidence=confidence, seed=seed
    )
    if not math.isfinite(drawn.standard_error):
        return drawn
    low, high = 2 * drawn.value - drawn.high, 2 * drawn.value - drawn.low
    codes = cluster_codes(np.arange(len(differences)) if clusters is None else clusters)
    stated, bins = _bins(differences)
    gaps = np.zeros((int(codes.max()) + 1, NUM_BINS))
    np.add.at(gaps, (codes, bins), rightness(differences) - stated)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(RESAMPLES, len(gaps)))
    by_chance = np.abs(signs @ gaps).sum(1) / len(differences)
    if drawn.value <= np.quantile(by_chance, (1 + confidence) / 2):
        low = 0.0
    return replace(drawn, low=max(0.0, min(low, drawn.value)), high=min(1.0, max(high, drawn.value)))


def fit_temperature(
    differences: np.ndarray, *, clusters: Clusters | None = None, confidence: float = 0.95
) -> Estimate | None:
    """T of σ(d/T) by maximum likelihood (Guo et al., §4.2). Its interval is that of 1/T with cluster-robust variance.

    None if no positive, finite T is best: every pair is right (or none is wrong enough), or no better than chance.
    """
    d = differences[differences != 0]
    right, wrong = bool((d > 0).any()), bool((d < 0).any())
    if not (right and wrong) or d.sum() <= 0:  # the likelihood's slope at 1/T = 0 is Σd/2
        return None
    import statsmodels.api as sm

    codes = cluster_codes(np.arange(len(differences)) if clusters is None else clusters)
    # Half of the pairs are swapped, which does not change the likelihood: both labels must occur.
    turned = np.where(np.arange(len(differences)) % 2 == 0, 1.0, -1.0)
    scale = float(np.abs(differences).max())
    model = sm.Logit((turned > 0).astype(float), (turned * differences / scale)[:, None])
    num_clusters = int(codes.max()) + 1
    if num_clusters < 2:
        value, error = float(model.fit(disp=0).params[0]) / scale, math.inf
    else:
        fitted = model.fit(disp=0, cov_type="cluster", cov_kwds={"groups": codes})
        value, error = float(fitted.params[0]) / scale, float(fitted.bse[0]) / scale
    reach = float(stats.t.ppf((1 + confidence) / 2, num_clusters - 1)) * error if num_clusters > 1 else math.inf
    return Estimate(
        value=1 / value,
        low=1 / (value + reach),
        high=1 / (value - reach) if value > reach else math.inf,
        n=len(differences),
        clusters=num_clusters,
        standard_error=error / value**2,
        confidence=confidence,
    )


def tempered(differences: np.ndarray, *, clusters: Clusters | None = None) -> np.ndarray | None:
    """(B,) differences over a temperature that is fitted on the other half of the clusters; None if none can be."""
    codes = cluster_codes(np.arange(len(differences)) if clusters is None else clusters)
    half = codes % 2
    result = np.empty(len(differences))
    for this in (0, 1):
        if not (half == this).any() or not (half != this).any():
            return None
        fitted = fit_temperature(differences[half != this], clusters=codes[half != this].tolist())
        if fitted is None:
            return None
        result[half == this] = differences[half == this] / fitted.value
    return result


def length_bias(differences: np.ndarray, length_differences: np.ndarray) -> float:
    """Partial correlation of score difference and length difference, given the label; nan if one of them is constant.

    Both are chosen minus rejected, so the label is the same in every pair, and the partial correlation given the label
    is the ordinary correlation. Zero: beyond what the label explains, longer completions do not score higher.
    """
    if np.ptp(differences) == 0 or np.ptp(length_differences) == 0:
        return math.nan
    return float(stats.pearsonr(differences, length_differences).statistic)


def cluster_bootstrap(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`statistic(*arrays)` with a percentile interval over resampled clusters (Efron and Tibshirani 1993, ch. 13).

    Resamples in which the statistic is not finite are left out. Raises DataError if there are no values.
    """
    number = len(arrays[0])
    if not number:
        raise DataError("an interval needs at least one value", got="none")
    codes = cluster_codes(np.arange(number) if clusters is None else clusters)
    num_clusters = int(codes.max()) + 1
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES if num_clusters > 1 else 0):
        rows = np.concatenate([members[c] for c in generator.integers(num_clusters, size=num_clusters)])
        found.append(statistic(*(array[rows] for array in arrays)))
    finite = np.array(found)[np.isfinite(found)] if found else np.zeros(0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(finite, [tail, 1 - tail]) if len(finite) > 1 else (-math.inf, math.inf)
    return Estimate(
        value=float(statistic(*arrays)),
        low=float(low),
        high=float(high),
        n=number,
        clusters=num_clusters,
        standard_error=float(finite.std(ddof=1)) if len(finite) > 1 else math.inf,
        confidence=confidence,
    )
