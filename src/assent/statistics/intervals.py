"""Figures with intervals: means, proportions and paired differences, clustered if samples are not independent.

Samples of one prompt share the prompt, and runs with several seeds share the prompts, so a figure's uncertainty is
that of its clusters, not of its rows. A mean is the intercept of an ordinary least squares fit with cluster-robust
variance (statsmodels): Liang and Zeger, Biometrika 73 (1986), for one way of clustering; Cameron, Gelbach and Miller,
JBES 29 (2011), for two. The quantile is Student's with (clusters - 1) degrees of freedom; with two ways, the smaller.

Legend: N values.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assent.errors import DataError

Values = Sequence[float] | np.ndarray
Clusters = Sequence[Hashable] | np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and its interval. With fewer than two clusters the spread is unknown, and the ends are infinite."""

    value: float
    low: float
    high: float
    n: int
    """Number of values."""
    clusters: int
    """Number of independent units; with two ways of clustering, the smaller one."""
    standard_error: float
    confidence: float = 0.95

    def as_dict(self) -> dict[str, float | int | None]:
        """As JSON; an infinite end or standard error is None."""
        return {
            "value": self.value,
            "low": self.low if math.isfinite(self.low) else None,
            "high": self.high if math.isfinite(self.high) else None,
            "n": self.n,
            "clusters": self.clusters,
            "standard_error": self.standard_error if math.isfinite(self.standard_error) else None,
            "confidence": self.confidence,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Estimate:
        """The inverse of `as_dict`."""
        infinite = {"low": -math.inf, "high": math.inf, "standard_error": math.inf}
        known: dict[str, Any] = {name: infinite[name] if value is None else value for name, value in fields.items()}
        return cls(**known)

    def text(self, *, digits: int = 2) -> str:
        """`0.71 [0.66, 0.75]`, or `0.71 (too few)` without an interval."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"{self.value:.{digits}f} (too few)"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def mean_interval(
    values: Values,
    *,
    clusters: Clusters | None = None,
    second_clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of the values (N,) with a cluster-robust interval.

    `clusters` (N,) names the unit that each value belongs to (its prompt); None: every value is its own unit.
    `second_clusters` (N,) names a second way in which values belong together (the seed of the run). The two-way
    variance is a difference of estimates and can be smaller than either one-way variance by chance, so the largest of
    the three is used: the interval is rather too wide than too narrow.

    Raises DataError if there are no values, if a value is not finite, and for different lengths.
    """
    y = _finite(values)
    ways = _cluster_codes(y, clusters, second_clusters)
    value = float(y.mean())
    num_clusters = min(int(way.max()) + 1 for way in ways)
    if num_clusters < 2:
        standard_error, reach = math.inf, math.inf
    else:
        from scipy import stats

        standard_error = math.sqrt(_variance_of_mean(y, ways))
        reach = float(stats.t.ppf((1 + confidence) / 2, num_clusters - 1)) * standard_error
    return Estimate(
        value=value,
        low=value - reach,
        high=value + reach,
        n=len(y),
        clusters=num_clusters,
        standard_error=standard_error,
        confidence=confidence,
    )


def proportion_interval(
    values: Values,
    *,
    clusters: Clusters | None = None,
    second_clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of values in [0, 1] (½ for a tie) with Wilson's interval, which never leaves [0, 1].

    Clusters enter through the effective sample size p(1 - p) / SE², corrected for few clusters by the squared ratio of
    the normal to the Student quantile (Korn and Graubard, Survey Methodology 24, 1998). If all values are equal, the
    number of clusters is the sample size. Raises DataError as `mean_interval` does, and for a value outside [0, 1].
    """
    y = _finite(values)
    if y.min() < 0 or y.max() > 1:
        raise DataError("a proportion needs values in [0, 1]", got=f"{y.min():g} to {y.max():g}")
    mean = mean_interval(y, clusters=clusters, second_clusters=second_clusters, confidence=confidence)
    if mean.clusters < 2:
        low, high = 0.0, 1.0
    else:
        from scipy import stats
        from statsmodels.stats.proportion import proportion_confint

        size = float(mean.clusters)
        if mean.standard_error > 1e-12:  # a smaller one is rounding
            tail = (1 + confidence) / 2
            few = (stats.norm.ppf(tail) / stats.t.ppf(tail, mean.clusters - 1)) ** 2
            size = mean.value * (1 - mean.value) / mean.standard_error**2 * float(few)
        low, high = proportion_confint(mean.value * size, size, alpha=1 - confidence, method="wilson")
    return Estimate(
        value=mean.value,
        low=max(0.0, min(float(low), mean.value)),
        high=min(1.0, max(float(high), mean.value)),
        n=mean.n,
        clusters=mean.clusters,
        standard_error=mean.standard_error,
        confidence=confidence,
    )


def paired_difference(
    a: Values,
    b: Values,
    *,
    clusters: Clusters | None = None,
    second_clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of a - b (N,) over the same units in the same order. Raises DataError as `mean_interval` does."""
    first, second = _finite(a), _finite(b)
    if len(first) != len(second):
        raise DataError("a paired difference needs equally many values of both", got=f"{len(first)} and {len(second)}")
    return mean_interval(first - second, clusters=clusters, second_clusters=second_clusters, confidence=confidence)


def difference(
    a: Values,
    b: Values,
    *,
    clusters_of_a: Clusters | None = None,
    clusters_of_b: Clusters | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of a (N,) minus mean of b (M,), which need not be of the same units.

    A unit may have values in both (the items of one prompt, before and after a change): its name is the same then.
    None: every value is its own unit. It is the slope of a least squares fit on a and b together, with cluster-robust
    variance; the ends are infinite where one of them has fewer than two units. Raises DataError as `mean_interval`.
    """
    first, second = _finite(a), _finite(b)
    names: list[Hashable] = []
    for number, (values, own) in enumerate(((first, clusters_of_a), (second, clusters_of_b))):
        found = [(number, place) for place in range(len(values))] if own is None else list(own)
        if len(found) != len(values):
            raise DataError("every value needs a cluster", got=f"{len(found)} clusters for {len(values)} values")
        names += found
    codes = cluster_codes(names)
    clusters = int(codes.max()) + 1
    value = float(first.mean() - second.mean())
    standard_error, reach = math.inf, math.inf
    if min(len(set(codes[: len(first)])), len(set(codes[len(first) :]))) > 1:
        import statsmodels.api as sm
        from scipy import stats

        y, is_first = np.concatenate([first, second]), np.repeat([1.0, 0.0], [len(first), len(second)])
        model = sm.OLS(y, np.column_stack([np.ones(len(y)), is_first]))
        fitted = model.fit(cov_type="cluster", use_t=True, cov_kwds={"groups": codes})
        standard_error = math.sqrt(max(0.0, float(fitted.cov_params()[1, 1])))
        reach = float(stats.t.ppf((1 + confidence) / 2, clusters - 1)) * standard_error
    return Estimate(
        value=value,
        low=value - reach,
        high=value + reach,
        n=len(first) + len(second),
        clusters=clusters,
        standard_error=standard_error,
        confidence=confidence,
    )


def _finite(values: Values) -> np.ndarray:
    """(N,) float64. Raises DataError if there is no value, or if one is not finite."""
    y = np.asarray(values, dtype=np.float64)
    if y.ndim != 1 or y.size == 0:
        raise DataError(
            "an interval needs at least one value", got=f"an array of shape {y.shape}", expected="(N,), N ≥ 1"
        )
    if not np.isfinite(y).all():
        position = int(np.flatnonzero(~np.isfinite(y))[0])
        raise DataError(
            "a value is not finite",
            got=f"{y[position]} at position {position}",
            fix="decide whether to leave it out",
        )
    return y


def _cluster_codes(y: np.ndarray, clusters: Clusters | None, second: Clusters | None) -> list[np.ndarray]:
    """An array (N,) of codes for each way of clustering."""
    named: list[Clusters] = [np.arange(len(y)) if clusters is None else clusters]
    named += [] if second is None else [second]
    ways = []
    for names in named:
        if len(names) != len(y):
            raise DataError("every value needs a cluster", got=f"{len(names)} clusters for {len(y)} values")
        ways.append(cluster_codes(names))
    return ways


def cluster_codes(names: Clusters) -> np.ndarray:
    """(N,) names of clusters, anything hashable -> codes 0 … C - 1 in the order of appearance."""
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(name, len(order)) for name in names], dtype=np.int64)


def _variance_of_mean(y: np.ndarray, ways: list[np.ndarray]) -> float:
    """Cluster-robust variance of the mean, with the factor C / (C - 1) for each way of clustering."""
    import statsmodels.api as sm

    model = sm.OLS(y, np.ones((len(y), 1)))
    options: dict[str, Any] = {"cov_type": "cluster", "use_t": True}
    one_way = [float(model.fit(**options, cov_kwds={"groups": way}).cov_params()[0, 0]) for way in ways]
    if len(ways) == 1:
        return one_way[0]
    two_way = float(model.fit(**options, cov_kwds={"groups": np.stack(ways, axis=1)}).cov_params()[0, 0])
    return max(two_way, *one_way)
