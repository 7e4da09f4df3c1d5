"""How good a reward model is on held-out comparisons: accuracy, calibration, length and slices, with intervals.

Legend: B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit

from assent.errors import DataError
from assent.evaluation.calibration import (
    ReliabilityBin,
    calibration_error,
    cluster_bootstrap,
    fit_temperature,
    length_bias,
    reliability,
    rightness,
    tempered,
)
from assent.runs.text_table import cut
from assent.statistics.intervals import (
    Clusters,
    Estimate,
    Values,
    cluster_codes,
    mean_interval,
    paired_difference,
    proportion_interval,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelQuality:
    """A reward model's figures on held-out comparisons. None: the data does not allow the figure."""

    accuracy: Estimate
    """Share of pairs in which the chosen completion scores higher; equal scores count half."""
    margin: Estimate
    """Mean of the chosen score minus the rejected score."""
    stated_accuracy: Estimate
    """The accuracy that the model's own scores predict: mean of σ(|margin|), Bradley-Terry."""
    overconfidence: Estimate
    """Stated minus actual accuracy, paired. Above zero the model is overconfident."""
    brier: Estimate
    """Mean of (1 − σ(margin))²; ¼ for a model that gives every pair ½."""
    ece: Estimate
    """Expected calibration error, with an interval by bootstrap over prompts."""
    temperature: Estimate | None
    """The T with which σ(margin / T) fits these pairs best. Above 1 the model is overconfident."""
    ece_tempered: Estimate | None
    """Calibration error with a temperature fitted on the other half of the prompts."""
    reliability: tuple[ReliabilityBin, ...]
    length_bias: Estimate | None
    """Partial correlation of score difference and length difference, given the label."""
    longer_is_worse: Estimate | None
    """Accuracy on pairs whose chosen completion is shorter."""
    longer_is_better: Estimate | None
    """Accuracy on pairs whose chosen completion is longer."""
    slices: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Column to value to accuracy."""

    def as_dict(self) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return None if value is None else value.as_dict()


def reward_model_quality(
    chosen_scores: Values,
    rejected_scores: Values,
    *,
    clusters: Clusters | None = None,
    chosen_lengths: Values | None = None,
    rejected_lengths: Values | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> RewardModelQuality:
    """The figures of scores (B,) on held-out pairs.

    clusters   (B,) each pair's prompt
    *_lengths  (B,) of the completions, in any unit
    slices     column to its value in each pair (B,)
    seed       of the bootstrap
    Raises DataError for unequal lengths, no pairs, or scores that are not finite.
    """
    chosen, rejected = np.asarray(chosen_scores, dtype=np.float64), np.asarray(rejected_scores, dtype=np.float64)
    if chosen.shape != rejected.shape:
        raise DataError(
            "accuracy needs a score for both completions of each pair", got=f"{chosen.shape} and {rejected.shape}"
        )
    names = cluster_codes(np.arange(len(chosen)) if clusters is None else clusters).tolist()
    options: dict[str, Any] = {"clusters": names, "confidence": confidence}
    difference = chosen - rejected
    margin = mean_interval(difference, **options)
    right, stated = rightness(difference), expit(np.abs(difference))
    cooled = tempered(difference, clusters=names)
    lengths: dict[str, Estimate | None] = dict.fromkeys(("length_bias", "longer_is_worse", "longer_is_better"))
    if chosen_lengths is not None and rejected_lengths is not None:
        longer = np.asarray(chosen_lengths, dtype=np.float64) - np.asarray(rejected_lengths, dtype=np.float64)
        bias = cluster_bootstrap(length_bias, difference, longer, seed=seed, **options)
        lengths = {
            "length_bias": bias if np.isfinite(bias.value) else None,
            "longer_is_worse": _accuracy(right, longer < 0, names, confidence),
            "longer_is_better": _accuracy(right, longer > 0, names, confidence),
        }
    return RewardModelQuality(
        accuracy=proportion_interval(right, **options),
        margin=margin,
        stated_accuracy=proportion_interval(stated, **options),
        overconfidence=paired_difference(stated, right, **options),
        brier=mean_interval(expit(-difference) ** 2, **options),
        ece=calibration_error(difference, seed=seed, **options),
        temperature=fit_temperature(difference, **options),
        ece_tempered=None if cooled is None else calibration_error(cooled, seed=seed, **options),
        reliability=reliability(difference, **options),
        **lengths,
        slices={
            column: _by_value(right, np.asarray(values, dtype=str), names, confidence)
            for column, values in (slices or {}).items()
        },
    )


def _by_value(right: np.ndarray, values: np.ndarray, names: list[int], confidence: float) -> dict[str, Estimate]:
    found = {str(value): _accuracy(right, values == value, names, confidence) for value in np.unique(values)}
    return {value: estimate for value, estimate in found.items() if estimate is not None}


def _accuracy(right: np.ndarray, where: np.ndarray, names: list[int], confidence: float) -> Estimate | None:
    if not where.any():
        return None
    return proportion_interval(right[where], clusters=np.asarray(names)[where].tolist(), confidence=confidence)


def quality_lines(quality: Mapping[str, Any], *, max_length: int | None = None) -> list[str]:
    """The result of `judge_reward` as text within 80 columns. `max_length`: what shortens texts; None: the context."""
    limit = "the model's context" if max_length is None else f"--max-length {max_length}"
    shown = {**_SHOWN, "texts_shortened": f"texts shortened to {limit}"}
    lines = [_row(text, quality.get(name)) for name, text in shown.items() if quality.get(name) is not None]
    if quality.get("noise_ceiling") is not None:
        lines.append(f"{'highest accuracy that noisy labels allow':<49}{quality['noise_ceiling']:.3f}")
    lines += ["", f"{'predicted':<16}{'share right':<30}{'pairs':>6}"]
    lines += [f"{b['stated']:<16.3f}{_interval(b['right']):<30}{b['right']['n']:>6}" for b in quality["reliability"]]
    for column, values in quality["slices"].items():
        lines += ["", f"accuracy by {column}"]
        lines += [f"  {cut(name, 42):<44}{_interval(e):<26}{e['n']:>6}" for name, e in values.items()]
    return lines


_SHOWN = {
    "accuracy": "accuracy",
    "longer_is_worse": "accuracy where the longer completion is worse",
    "longer_is_better": "accuracy where the longer completion is better",
    "agreement": "agreement of a label with the other annotators",
    "length_bias": "score and length, given the label (partial r)",
    "margin": "margin",
    "stated_accuracy": "accuracy that the scores predict",
    "overconfidence": "predicted minus actual accuracy",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "temperature": "best-fitting temperature",
    "ece_tempered": "calibration error with it (cross-fitted)",
    "ensemble_std": "standard deviation over the ensemble",
}


def _row(text: str, estimate: Any) -> str:
    return f"{text:<49}{estimate if isinstance(estimate, str) else _interval(estimate)}"


def _interval(estimate: Mapping[str, Any] | float) -> str:
    return f"{estimate:.3f}" if isinstance(estimate, float) else Estimate.from_dict(dict(estimate)).text(digits=3)
