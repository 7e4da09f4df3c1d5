"""How good a reward model is on comparisons it has not seen: accuracy and calibration, with intervals.

Legend: B pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from assent.errors import DataError
from assent.evaluation.intervals import (
    Clusters,
    Estimate,
    Values,
    mean_interval,
    paired_difference,
    proportion_interval,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelQuality:
    """What held-out comparisons say of a reward model."""

    accuracy: Estimate
    """Share of pairs whose chosen completion scores higher; equal scores count half."""
    margin: Estimate
    """Mean of chosen - rejected score."""
    stated_accuracy: Estimate
    """What the model itself expects to get right: mean of σ(|margin|), Bradley-Terry."""
    overconfidence: Estimate
    """Stated minus actual accuracy, paired: above zero the model is surer than it is right."""

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).as_dict() for name in self.__slots__}


def reward_model_quality(
    chosen_scores: Values,
    rejected_scores: Values,
    *,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> RewardModelQuality:
    """Judges scores (B,) of held-out pairs; `clusters` (B,) is each pair's prompt.

    Raises DataError for unequal lengths, no pairs, scores that are not finite.
    """
    chosen, rejected = np.asarray(chosen_scores, dtype=np.float64), np.asarray(rejected_scores, dtype=np.float64)
    if chosen.shape != rejected.shape:
        raise DataError("accuracy needs a score for both of each pair", got=f"{chosen.shape} and {rejected.shape}")
    margin = mean_interval(chosen - rejected, clusters=clusters, confidence=confidence)
    difference = chosen - rejected
    right = (difference > 0) + 0.5 * (difference == 0)
    stated = expit(np.abs(difference))
    return RewardModelQuality(
        accuracy=proportion_interval(right, clusters=clusters, confidence=confidence),
        margin=margin,
        stated_accuracy=proportion_interval(stated, clusters=clusters, confidence=confidence),
        overconfidence=paired_difference(stated, right, clusters=clusters, confidence=confidence),
    )
