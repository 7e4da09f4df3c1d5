"""Figures that a judge with known errors gave: win rates corrected for the errors, and the biases that could be seen.

Legend: N verdicts, each in [0, 1], a tie half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from assent.errors import DataError
from assent.statistics.intervals import Clusters, Estimate, Values, cluster_codes, proportion_interval

PLANTED = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Sizes of bias that a self-test plants."""
POWER = 0.8
"""Share of plantings in which a bias has to be found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """A win rate as people would have given it. `width_factor`: how much wider its interval is than the observed
    one's, which is what the judge's errors cost."""

    value: float
    low: float
    high: float
    observed: Estimate
    sensitivity: float
    """Mean verdict for A where people prefer A."""
    specificity: float
    """One minus the mean verdict for A where people prefer B."""
    width_factor: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "value": self.value, "low": self.low, "high": self.high, "observed": self.observed.as_dict(),
            "sensitivity": self.sensitivity, "specificity": self.specificity, "width_factor": self.width_factor,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """Verdicts (N,) and the unit of each, such as its prompt; None: each is its own."""

    values: Values
    clusters: Clusters | None = None


def corrected_win_rate(
    observed: Sample, on_wins: Sample, on_losses: Sample | None = None, *, confidence: float = 0.95
) -> Corrected:
    """The share θ of comparisons in which people prefer A's answer, from a judge's verdicts and its errors.

    Rogan and Gladen, Amer. J. Epidemiology 107 (1978): E[verdict] = θ a + (1 − θ) b with a = E[verdict | people prefer
    A] and b = E[verdict | people prefer B], so θ = (m − b) / (a − b). With a tie as ½ the same holds.

    observed    the verdicts for A on the comparisons in question
    on_wins     the verdicts for A on comparisons in which people prefer A
    on_losses   the verdicts for A on those in which people prefer B; None: one error for both sides, b = 1 − a

    The interval holds every θ that the data do not reject: (m − b − θ (a − b))² ≤ z² Var(m − b − θ (a − b)), a
    quadratic (Fieller, J. Royal Statist. Soc. B 16, 1954). Means and variances are those of Agresti and Coull's
    proportions, as Lang and Reiczigel take them (Prev. Vet. Med. 113, 2014), so that a judge without an error in its
    sample is not certain. If a − b may be 0, every θ is possible and the interval is [0, 1].
    Raises DataError for values outside [0, 1] or none.
    """
    estimate = proportion_interval(observed.values, clusters=observed.clusters, confidence=confidence)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    m, var_m = _smoothed(observed, z, added=z * z)
    a, var_a = _smoothed(on_wins, z, added=2)
    raw_a = float(np.mean(on_wins.values))
    if on_losses is None:
        raw_b, b, errors = 1 - raw_a, 1 - a, (var_a, -4 * var_a, 4 * var_a)  # (1 − 2θ)² Var(a)
    else:
        b, var_b = _smoothed(on_losses, z, added=2)
        raw_b = float(np.mean(on_losses.values))
        errors = (var_b, -2 * var_b, var_a + var_b)  # θ² Var(a) + (1 − θ)² Var(b)
    low, high = _fieller(m - b, a - b, (var_m + errors[0], *errors[1:]), z)
    value = (estimate.value - raw_b) / (raw_a - raw_b) if raw_a != raw_b else 0.5
    value = min(max(value, 0.0), 1.0)
    low, high = min(low, value), max(high, value)
    return Corrected(
        value=value,
        low=low,
        high=high,
        observed=estimate,
        sensitivity=raw_a,
        specificity=1 - raw_b,
        width_factor=(high - low) / (estimate.high - estimate.low),
    )


def _smoothed(sample: Sample, z: float, *, added: float) -> tuple[float, float]:
    """Mean and variance of the mean after adding `added` verdicts, half of them for A. The number of verdicts is the
    effective one: p (1 − p) over the squared cluster-robust standard error."""
    values = np.asarray(sample.values, dtype=np.float64)
    codes = cluster_codes(np.arange(len(values)) if sample.clusters is None else sample.clusters)
    size = float(codes.max() + 1) if len(codes) else 0.0
    if size < 2 or values.min() < 0 or values.max() > 1:
        raise DataError(
            "a judge's error needs two independent verdicts or more, each in [0, 1]", got=values.tolist()[:5]
        )
    p, error = _clustered_mean(values, codes, int(size))
    if error > 1e-12:
        size = p * (1 - p) / error**2
    smooth = (p * size + added / 2) / (size + added)
    return smooth, smooth * (1 - smooth) / (size + added)


def _fieller(top: float, bottom: float, variance: tuple[float, float, float], z: float) -> tuple[float, float]:
    """The θ in [0, 1] with (top − θ bottom)² ≤ z² (v₀ + v₁ θ + v₂ θ²)."""
    constant = top**2 - z * z * variance[0]
    linear = -2 * top * bottom - z * z * variance[1]
    square = bottom**2 - z * z * variance[2]
    root = linear**2 - 4 * square * constant
    if square <= 0 or bottom <= 0 or root < 0:
        return 0.0, 1.0
    ends = [(-linear + sign * math.sqrt(root)) / (2 * square) for sign in (-1, 1)]
    return min(max(ends[0], 0.0), 1.0), min(max(ends[1], 0.0), 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasTest:
    """A bias of a judge, and what a test of this size could have found."""

    bias: Estimate
    """Mean of verdict minus baseline; 0 without a bias."""
    found: bool
    """Whether the interval excludes 0."""
    planted: Mapping[float, float]
    """Size of a planted bias to the share of plantings in which it was found, up to the first size that always was. 0:
    none was planted, so these are false alarms."""
    smallest: float | None
    """The smallest planted size that was found in at least `POWER` of the plantings; None: not even the largest."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "bias": self.bias.as_dict(), "found": self.found, "smallest_found": self.smallest,
            "planted": {f"{size:g}": share for size, share in self.planted.items()},
        }  # fmt: skip


def bias_test(
    verdicts: Sequence[float] | np.ndarray,
    baseline: Sequence[float] | np.ndarray | float = 0.5,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    plantings: int = 200,
    confidence: float = 0.95,
) -> BiasTest:
    """Whether verdicts lean to one side, and the smallest lean that so many verdicts could have shown.

    verdicts   (N,) for the side in question: the answer shown first, the longer one
    baseline   (N,) or a number: the verdict without a bias. ½ for the place; what people said for the length
    clusters   (N,) the unit of each verdict

    The self-test takes the observed differences with their mean removed, so that there is no bias in them, draws units
    with replacement, turns each verdict to the side in question with the probability `size`, and counts how often the
    same test finds it. "No bias found" and "it could not have been found" are different answers.
    Raises DataError for fewer than two units.
    """
    said = np.asarray(verdicts, dtype=np.float64)
    expected = np.broadcast_to(np.asarray(baseline, dtype=np.float64), said.shape)
    codes = cluster_codes(np.arange(len(said)) if clusters is None else clusters)
    num_clusters = int(codes.max()) + 1 if len(codes) else 0
    if num_clusters < 2:
        raise DataError("a test of bias needs at least two independent verdicts", got=num_clusters)
    quantile = float(stats.t.ppf((1 + confidence) / 2, num_clusters - 1))
    difference = said - expected
    value, error = _clustered_mean(difference, codes, num_clusters)
    bias = Estimate(
        value=value, low=value - quantile * error, high=value + quantile * error, n=len(said), clusters=num_clusters,
        standard_error=error, confidence=confidence,
    )  # fmt: skip
    generator = np.random.default_rng(seed)
    planted: dict[float, float] = {}
    for size in (0.0, *PLANTED):
        values = [
            _found_again(difference - value, 1 - expected, codes, size, quantile, generator) for _ in range(plantings)
        ]
        planted[size] = float(np.mean(values))
        if planted[size] == 1:  # so would be every larger one
            break
    enough = [size for size in PLANTED if planted.get(size, 1.0) >= POWER]
    return BiasTest(bias=bias, found=bias.low > 0 or bias.high < 0, planted=planted, smallest=min(enough, default=None))


def _found_again(
    centred: np.ndarray,
    turned: np.ndarray,
    codes: np.ndarray,
    size: float,
    quantile: float,
    generator: np.random.Generator,
) -> bool:
    """Whether a bias of this size, planted into the verdicts, is found in a bootstrap sample of their units."""
    values = np.where(generator.random(len(centred)) < size, turned, centred)
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes)
    times = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)))  # how often each unit is drawn
    number = float(times @ sizes)
    mean = float(times @ sums) / number
    squares = float(times @ (sums - mean * sizes) ** 2)
    error = math.sqrt(len(sums) / (len(sums) - 1) * squares) / number
    return abs(mean) > quantile * error


def _clustered_mean(values: np.ndarray, codes: np.ndarray, num_clusters: int) -> tuple[float, float]:
    """Mean, and its cluster-robust standard error as in `mean_interval`, without its model: it is taken many times."""
    mean = float(values.mean())
    sums = np.bincount(codes, weights=values - mean, minlength=num_clusters)
    return mean, math.sqrt(num_clusters / (num_clusters - 1) * float(sums @ sums)) / len(values)
