"""How often A beats B on the same prompts; a tie counts half.

Legend: P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assent.errors import DataError
from assent.statistics.intervals import Clusters, Estimate, proportion_interval

Scores = Sequence[float] | Sequence[Sequence[float]] | np.ndarray
"""P numbers, for one completion of each prompt; or P rows with a number for each completion of the prompt."""


def win_rate(
    a_scores: Scores,
    b_scores: Scores,
    *,
    clusters: Clusters | None = None,
    second_clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Probability that a completion of A scores higher than one of B on the same prompt; a tie counts half.

    With several completions for each prompt, every one of A is compared with every one of B, so a prompt's share is
    exact for the samples drawn (the Mann-Whitney statistic). Every prompt counts the same and is the unit of the
    interval, unless `clusters` (P,) joins prompts (turns of one conversation, one prompt over several seeds) and
    `second_clusters` (P,) names the seeds.

    Raises DataError for different numbers of prompts, a prompt without completions, or a score that is not finite.
    """
    shares = prompt_win_rates(a_scores, b_scores)
    return proportion_interval(shares, clusters=clusters, second_clusters=second_clusters, confidence=confidence)


def prompt_win_rates(a_scores: Scores, b_scores: Scores) -> np.ndarray:
    """(P,) float64 in [0, 1]: each prompt's share of pairs that A wins, ties half. Raises as `win_rate` does."""
    if len(a_scores) != len(b_scores):
        raise DataError(
            "a win rate compares completions of the same prompts",
            got=f"{len(a_scores)} prompts for A, {len(b_scores)} for B",
            fix="give both for the same prompts in the same order",
        )
    shares = np.empty(len(a_scores))
    for prompt, (a, b) in enumerate(zip(a_scores, b_scores, strict=True)):
        first, second = (np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (a, b))
        if not (first.size and second.size and np.isfinite(first).all() and np.isfinite(second).all()):
            raise DataError(
                f"prompt {prompt} cannot be compared",
                got=f"scores {first.tolist()} and {second.tolist()}",
                expected="at least one finite score on each side",
            )
        difference = first[:, None] - second[None, :]
        shares[prompt] = ((difference > 0) + 0.5 * (difference == 0)).mean()
    return shares
