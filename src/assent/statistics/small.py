"""The statistics of the doctor's rules, in the standard library alone: they run where numpy and scipy are not.

Tests hold them equal to numpy, scipy and statsmodels. Legend: n values, in the order of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist, fmean, median
from typing import NamedTuple

__all__ = ["fmean", "median"]

Values = Sequence[float]
SD_OF_MAD = 1.4826
"""A normal distribution's standard deviation, divided by its median absolute deviation."""


SURE = 0.999
"""Confidence that rules ask for: dozens of them look at each run, and a healthy one must pass them all."""


class Interval(NamedTuple):
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mad(values: Values) -> float:
    """Median absolute deviation from the median."""
    centre = median(values)
    return median([abs(value - centre) for value in values])


def quantile(values: Values, share: float) -> float:
    """The value below which `share` of them lie, between two of them by a straight line (numpy's default)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def variance(values: Values) -> float:
    """Unbiased; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def noise(values: Values) -> float:
    """Standard deviation of the values around their curve: from second differences, robust to jumps.

    A trend, and most of a bend, cancel in them; 0 for fewer than four values.
    """
    steps = [after - before for before, after in pairwise(values)]
    bends = [after - before for before, after in pairwise(steps)]
    return 0.0 if len(bends) < 2 else SD_OF_MAD * mad(bends) / math.sqrt(6)


def correlation(x: Values, y: Values) -> float:
    """Pearson's; 0 where one of them does not vary."""
    mean_x, mean_y = fmean(x), fmean(y)
    products = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    squares = math.fsum((a - mean_x) ** 2 for a in x) * math.fsum((b - mean_y) ** 2 for b in y)
    return products / math.sqrt(squares) if squares > 0 else 0.0


def independent(values: Values) -> float:
    """How many independent values tell as much about the mean as these, by their correlation with the value before."""
    if len(values) < 4:
        return float(len(values))
    lag = max(0.0, min(correlation(values[:-1], values[1:]), 0.99))
    return max(2.0, len(values) * (1 - lag) / (1 + lag))


def mean_interval(values: Values, *, confidence: float = 0.95) -> Interval:
    """Mean with Student's interval, widened where successive values are alike."""
    mean, count = fmean(values), independent(values)
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    reach = student_quantile((1 + confidence) / 2, count - 1) * math.sqrt(variance(values) / count)
    return Interval(mean, mean - reach, mean + reach)


def difference(after: Values, before: Values, *, confidence: float = 0.95) -> Interval:
    """Mean of `after` minus mean of `before`, with Welch's interval, widened where successive values are alike."""
    value = fmean(after) - fmean(before)
    if min(len(after), len(before)) < 2:
        return Interval(value, -math.inf, math.inf)
    parts = [(variance(part) / independent(part), independent(part) - 1) for part in (after, before)]
    total = sum(part for part, _ in parts)
    if total == 0:
        return Interval(value, value, value)
    freedom = total**2 / sum(part**2 / max(degrees, 1e-9) for part, degrees in parts)
    reach = student_quantile((1 + confidence) / 2, freedom) * math.sqrt(total)
    return Interval(value, value - reach, value + reach)


def ends(values: Values) -> tuple[Values, Values]:
    """The first and the last quarter, of at least three values each where there are six."""
    size = max(min(3, len(values) // 2), len(values) // 4, 1)
    return values[:size], values[-size:]


def shift(values: Values, *, confidence: float = SURE) -> Interval:
    """Mean of the last quarter minus mean of the first, beside the noise of single values around their curve.

    A trend within a quarter is part of the change, not of the noise.
    """
    first, last = ends(values)
    value = fmean(last) - fmean(first)
    if len(values) < 6:
        return Interval(value, -math.inf, math.inf)
    rest = [residual for part in (first, last) for residual in _residuals(part)]
    around = math.sqrt(math.fsum(residual**2 for residual in rest) / max(1, len(rest) - 4))
    reach = student_quantile((1 + confidence) / 2, len(values) - 4) * max(noise(values), around)
    reach *= math.sqrt(1 / len(first) + 1 / len(last))
    return Interval(value, value - reach, value + reach)


def _residuals(values: Values) -> list[float]:
    """From the line through the values."""
    places = list(range(len(values)))
    tilt, middle, mean = slope(places, values).value, fmean(places), fmean(values)
    return [value - mean - tilt * (place - middle) for place, value in zip(places, values, strict=True)]


def slope(x: Values, y: Values, *, confidence: float = 0.95) -> Interval:
    """Least-squares slope of y on x, with Student's interval."""
    mean_x, mean_y = fmean(x), fmean(y)
    squares = math.fsum((a - mean_x) ** 2 for a in x)
    if squares == 0:
        return Interval(0.0, -math.inf, math.inf)
    value = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / squares
    if len(x) < 3:
        return Interval(value, -math.inf, math.inf)
    rest = math.fsum((b - mean_y - value * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    reach = student_quantile((1 + confidence) / 2, len(x) - 2) * math.sqrt(rest / (len(x) - 2) / squares)
    return Interval(value, value - reach, value + reach)


def smoothed(values: Values, width: int) -> list[float]:
    """Median of each value and its neighbours, `width` values in all (fewer at the ends)."""
    half = width // 2
    return [median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def wilson(successes: float, count: float, *, confidence: float = 0.95) -> Interval:
    """Interval of a proportion (Wilson 1927)."""
    if count <= 0:
        return Interval(math.nan, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Interval(share, max(0.0, centre - reach), min(1.0, centre + reach))


def student_quantile(share: float, freedom: float) -> float:
    """Quantile of Student's t, by bisection of its distribution function."""
    if share < 0.5:
        return -student_quantile(1 - share, freedom)
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < share and high < 1e12:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: float) -> float:
    tail = 0.5 * _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)
    return 1 - tail if t >= 0 else tail


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised, by its continued fraction (Numerical Recipes, 6.4)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or 1e-300)
    fraction = d
    for m in range(1, 300):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + numerator * d or 1e-300)
            c = 1 + numerator / c or 1e-300
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * fraction / a
