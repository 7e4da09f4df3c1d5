"""How often annotators agree with each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

import numpy as np

from assent.statistics.intervals import Estimate, proportion_interval


def annotators_agreement(
    items: Sequence[Hashable], votes: Sequence[bool], clusters: Sequence[Hashable], *, confidence: float = 0.95
) -> Estimate | None:
    """How often a label agrees with the majority of the item's other labels. A split majority counts half.

    items      (L,) the pair that each label is for
    votes      (L,) which of the two completions it prefers
    clusters   (L,) its prompt

    Items with one label are left out; None if there are no others. The result is the accuracy on these labels of a
    model that knew the other annotators' opinions: an estimate of the highest possible accuracy, which is too low if
    there are few annotators.
    """
    totals: dict[Hashable, list[int]] = {}
    for item, vote in zip(items, votes, strict=True):
        counts = totals.setdefault(item, [0, 0])
        counts[bool(vote)] += 1
    values, of = [], []
    for item, vote, cluster in zip(items, votes, clusters, strict=True):
        same, other = totals[item][bool(vote)] - 1, totals[item][not vote]
        if same + other:
            values.append(0.5 * (1 + np.sign(same - other)))
            of.append(cluster)
    return proportion_interval(values, clusters=of, confidence=confidence) if values else None


MOST_RATERS, MOST_ITEMS = 10, 100
"""Raters that `order_agreement` compares, those with most scores; items of two raters, evenly spread over theirs."""


def order_agreement(
    scores: Mapping[Hashable, Mapping[Hashable, float]], *, confidence: float = 0.95
) -> Estimate | None:
    """How often two raters order two items alike that both have scored: Kendall's pairs. Chance is one half.

    scores   of each rater, by item

    A pair of items that one of the two raters ties is left out. The interval is clustered by both items. None if no two
    raters have ordered the same two items.
    """
    raters = sorted(scores, key=lambda rater: (-len(scores[rater]), str(rater)))[:MOST_RATERS]
    values, first, second = [], [], []
    for one, other in combinations(raters, 2):
        common = [item for item in scores[one] if item in scores[other]]
        common = common[:: 1 + (len(common) - 1) // MOST_ITEMS]
        for a, b in combinations(common, 2):
            left, right = scores[one][a] - scores[one][b], scores[other][a] - scores[other][b]
            if left and right:
                values.append(float((left > 0) == (right > 0)))
                first.append(a)
                second.append(b)
    if not values:
        return None
    return proportion_interval(values, clusters=first, second_clusters=second, confidence=confidence)
