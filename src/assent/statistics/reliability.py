"""Agreement of annotators corrected for chance, with bootstrap intervals over independent units.

    raw agreement          share of pairs of labels of one unit that are equal, averaged over units
    Cohen's kappa          two annotators (Cohen, Educ. Psychol. Meas. 20, 1960)
    Fleiss' kappa          the same number of labels of each unit (Fleiss, Psychol. Bull. 76, 1971)
    Krippendorff's alpha   any number of labels of each unit, any metric (Krippendorff, Content Analysis, ch. 11)

Each is a function of sums over units, so the bootstrap resamples clusters of units (all pairs of one prompt) by drawing
how often each distinct row of sums occurs: exact, and as fast for a million units as for a hundred.

Legend: U units, V values, C clusters, D sums, R resamples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np

from assent.errors import DataError
from assent.statistics.intervals import Estimate, cluster_codes

Units = Sequence[Sequence[Hashable]]
"""The labels of each unit, of one or more annotators."""
Metric = Literal["nominal", "ordinal", "interval"]
RESAMPLES = 2000
MOST_UNDEFINED = 0.05
"""Share of resamples in which a figure may be undefined (all labels equal) before its interval is unknown."""


def raw_agreement(
    units: Units, *, clusters: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> Estimate | None:
    """None if no unit has two labels."""
    kept, own = _with_two(units, clusters)
    if not kept:
        return None
    sums = np.array([[pairs_equal(unit), 1.0] for unit in kept])
    return _bootstrapped(sums, own, lambda s: s[:, 0] / s[:, 1], confidence)


def pairs_equal(unit: Sequence[Hashable]) -> float:
    """The share of the pairs of a unit's labels, two or more, that are equal."""
    size = len(unit)
    return sum(count * (count - 1) for count in Counter(unit).values()) / (size * (size - 1))


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> Estimate | None:
    """Labels (U,) of two annotators on the same units. None if chance agreement is certain: both always say the same.

    Raises DataError for different lengths.
    """
    if len(first) != len(second):
        raise DataError("kappa needs labels of the same units", got=f"{len(first)} and {len(second)} labels")
    if not len(first):
        return None
    values = _values([*first, *second])
    size = len(values)
    table = np.zeros((len(first), size * size))
    table[np.arange(len(first)), [values[a] * size + values[b] for a, b in zip(first, second, strict=True)]] = 1.0

    def kappa(sums: np.ndarray) -> np.ndarray:
        joint = sums.reshape(-1, size, size)
        total = joint.sum((1, 2))
        observed = np.trace(joint, axis1=1, axis2=2) / total
        chance = (joint.sum(1) * joint.sum(2)).sum(1) / total**2
        return _corrected(observed, chance)

    return _bootstrapped(table, clusters, kappa, confidence)


def fleiss_kappa(
    units: Units, *, clusters: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> Estimate | None:
    """Of the units that have the most frequent number of labels, two or more. None if there are none, or if all labels
    are equal."""
    sizes = Counter(len(unit) for unit in units if len(unit) > 1)
    if not sizes:
        return None
    (size, _), *_ = sizes.most_common(1)
    kept, own = _with_two(units, clusters, size=size)
    values = _values([label for unit in kept for label in unit])
    counts = np.zeros((len(kept), len(values)))
    for row, unit in enumerate(kept):
        for label in unit:
            counts[row, values[label]] += 1
    agreed = (counts * (counts - 1)).sum(1) / (size * (size - 1))

    def kappa(sums: np.ndarray) -> np.ndarray:
        shares = sums[:, 2:] / sums[:, 2:].sum(1, keepdims=True)
        return _corrected(sums[:, 0] / sums[:, 1], (shares**2).sum(1))

    return _bootstrapped(np.column_stack([agreed, np.ones(len(kept)), counts]), own, kappa, confidence)


def krippendorff_alpha(
    units: Units,
    *,
    metric: Metric = "nominal",
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> Estimate | None:
    """Units with one label say nothing of agreement and are left out. None if all other labels are equal.

    ordinal and interval need numbers as labels.
    """
    kept, own = _with_two(units, clusters)
    if not kept:
        return None
    values = _values([label for unit in kept for label in unit], is_ordered=metric != "nominal")
    size = len(values)
    sums = np.zeros((len(kept), size * size))
    for row, unit in enumerate(kept):
        counts = np.zeros(size)
        for label in unit:
            counts[values[label]] += 1
        # each ordered pair of labels of the unit, weighted so that the unit counts as often as it has labels
        sums[row] = ((np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)).ravel()
    numbers: Any = list(values)

    def alpha(totals: np.ndarray) -> np.ndarray:
        joint = totals.reshape(-1, size, size)
        marginal = joint.sum(2)
        distance = _distance(metric, numbers, marginal)
        total = marginal.sum(1)
        observed = (joint * distance).sum((1, 2)) / total
        expected = (marginal[:, :, None] * marginal[:, None, :] * distance).sum((1, 2)) / (total * (total - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(expected > 0, 1 - observed / expected, np.nan)

    return _bootstrapped(sums, own, alpha, confidence)


def _distance(metric: Metric, values: Sequence[Any], marginal: np.ndarray) -> np.ndarray:
    """Squared differences (R, V, V) between values."""
    size = len(values)
    if metric == "nominal":
        return np.broadcast_to(1.0 - np.eye(size), (len(marginal), size, size))
    if metric == "interval":
        number = np.asarray(values, dtype=np.float64)
        return np.broadcast_to((number[:, None] - number[None, :]) ** 2, (len(marginal), size, size))
    # the number of labels from one value to the other, the ends counted half
    middle = np.cumsum(marginal, axis=1) - marginal / 2
    distance: np.ndarray = (middle[:, :, None] - middle[:, None, :]) ** 2
    return distance


def label_accuracy(agreement: Estimate) -> Estimate:
    """How often one label is right, if annotators are equally good, independent, and right more often than not.

    Two labels of one comparison agree with p = q² + (1 - q)², so q = (1 + √(2p - 1)) / 2. This q is also how often a
    model that is always right agrees with one label: the ceiling that noise puts on a reward model's accuracy. The ends
    are those of the agreement; agreement below chance gives ½.
    """

    def right(p: float) -> float:
        return (1 + math.sqrt(max(0.0, 2 * min(p, 1.0) - 1))) / 2 if math.isfinite(p) else p

    value = right(agreement.value)
    slope = math.inf if value <= 0.5 else 1 / (4 * value - 2)
    return Estimate(
        value=value,
        low=right(agreement.low),
        high=right(agreement.high),
        n=agreement.n,
        clusters=agreement.clusters,
        standard_error=agreement.standard_error * slope,
        confidence=agreement.confidence,
    )


def _with_two(
    units: Units, clusters: Sequence[Hashable] | None, *, size: int | None = None
) -> tuple[list[Sequence[Hashable]], list[Hashable]]:
    """The units with two labels or more (exactly `size`, if given), and their clusters."""
    names = range(len(units)) if clusters is None else clusters
    if len(names) != len(units):
        raise DataError("every unit needs a cluster", got=f"{len(names)} clusters for {len(units)} units")
    kept = [
        (unit, name)
        for unit, name in zip(units, names, strict=True)
        if (len(unit) > 1 if size is None else len(unit) == size)
    ]
    return [unit for unit, _ in kept], [name for _, name in kept]


def _values(labels: Sequence[Hashable], *, is_ordered: bool = False) -> dict[Hashable, int]:
    """Each value and its number; in the order of the numbers that they are, if that matters."""
    found = dict.fromkeys(labels)
    ordered: Any = sorted(found, key=float) if is_ordered else list(found)
    return {value: place for place, value in enumerate(ordered)}


def _corrected(observed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)


def _bootstrapped(
    sums: np.ndarray,
    clusters: Sequence[Hashable] | None,
    figure: Callable[[np.ndarray], np.ndarray],
    confidence: float,
) -> Estimate | None:
    """The figure of the sums (U, D) and its percentile interval; None if it is undefined."""
    codes = cluster_codes(range(len(sums)) if clusters is None else clusters)
    count = int(codes.max()) + 1
    whole = np.zeros((count, sums.shape[1]))
    np.add.at(whole, codes, sums)
    value = float(figure(whole.sum(0, keepdims=True))[0])
    if not math.isfinite(value):
        return None
    low, high, error = -math.inf, math.inf, math.inf
    if count > 1:
        rows, often = np.unique(whole, axis=0, return_counts=True)
        drawn = np.random.default_rng(0).multinomial(count, often / count, size=RESAMPLES)
        resampled = figure(drawn @ rows)
        defined = resampled[np.isfinite(resampled)]
        if len(defined) >= (1 - MOST_UNDEFINED) * RESAMPLES:
            tail = (1 - confidence) / 2
            low, high = (float(end) for end in np.quantile(defined, [tail, 1 - tail]))
            error = float(defined.std(ddof=1))
    return Estimate(
        value=value, low=min(low, value), high=max(high, value), n=len(sums), clusters=count, standard_error=error,
        confidence=confidence,
    )  # fmt: skip
