"""How often annotators agree with each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

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
