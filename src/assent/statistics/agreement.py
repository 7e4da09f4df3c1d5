"""How far the people who label agree with each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from assent.statistics.intervals import Estimate, proportion_interval


def annotators_agreement(
    items: Sequence[Hashable], votes: Sequence[bool], clusters: Sequence[Hashable], *, confidence: float = 0.95
) -> Estimate | None:
    """How often a label agrees with the majority of the item's other labels (a split majority counts half).

    items (L,) the pair that each label is of, votes (L,) which of the two it prefers, clusters (L,) its prompt. Of
    items with one label nothing is known; None where there are no others. It is what a model that knew the other
    annotators' opinion would score on these labels: the ceiling of accuracy, from below where annotators are few.
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
