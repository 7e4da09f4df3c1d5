"""The curves that are shown for a stage, and curves reduced to at most 300 points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from assent.runs.reading import Series

MAX_POINTS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart: its title, the unit of its vertical axis, and its metrics with their labels."""

    title: str
    unit: str
    metrics: Mapping[str, str]


PANELS = (
    Panel(title="Reward", unit="score", metrics={"objective/scores": "reward", "objective/rlhf_reward": "minus KL"}),
    Panel(
        title="KL to the reference", unit="nats per completion", metrics={"objective/kl": "KL", "eval_kl": "held out"}
    ),
    Panel(title="Loss", unit="nats", metrics={"loss": "training", "eval_loss": "held out"}),
    Panel(
        title="Margin",
        unit="chosen − rejected",
        metrics={
            "rewards/margins": "training",
            "margin": "training",
            "eval_rewards/margins": "held out",
            "eval_margin": "held out",
        },
    ),
    Panel(
        title="Accuracy",
        unit="share of pairs",
        metrics={
            "rewards/accuracies": "training",
            "accuracy": "training",
            "eval_rewards/accuracies": "held out",
            "eval_accuracy": "held out",
        },
    ),
    Panel(
        title="Implicit reward",
        unit="β × log-ratio",
        metrics={"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
    ),
    Panel(
        title="Log-probability",
        unit="nats per completion",
        metrics={"logps/chosen": "chosen", "logps/rejected": "rejected"},
    ),
    Panel(
        title="Length",
        unit="tokens",
        metrics={
            "rollout/completion_length": "sampled",
            "completions/mean_length": "sampled",
            "eval_rollout/completion_length": "held out",
        },
    ),
    Panel(
        title="Ended with EOS",
        unit="share",
        metrics={"rollout/eos_rate": "sampled", "eval_rollout/eos_rate": "held out"},
    ),
    Panel(title="Entropy", unit="nats", metrics={"objective/entropy": "per completion", "entropy": "per token"}),
    Panel(title="Policy change", unit="share clipped", metrics={"policy/clipfrac_avg": "clipped"}),
    Panel(title="Critic", unit="explained variance", metrics={"val/explained_variance": "explained"}),
    Panel(title="Gradient norm", unit="before clipping", metrics={"grad_norm": "gradient"}),
)
"""The most important first. A panel is drawn if the stage logged at least one of its metrics twice."""


Band = tuple[Series, Series]
"""Lower and upper ends of an interval, over the steps."""


def downsample(series: Series, max_points: int = MAX_POINTS) -> Series:
    """At most `max_points` points, including the smallest and the largest of each segment, so that no spike is lost.

    The first and last points are kept. Values must be finite.
    """
    points = list(zip(series.steps, series.values, strict=True))
    if len(points) > max_points:
        inner, stretches = points[1:-1], (max_points - 2) // 2
        kept = [points[0]]
        for i in range(stretches):
            stretch = inner[i * len(inner) // stretches : (i + 1) * len(inner) // stretches]
            least, greatest = (pick(stretch, key=lambda point: point[1]) for pick in (min, max))
            kept += sorted({least, greatest})
        points = [*kept, points[-1]]
    return Series(tuple(step for step, _ in points), tuple(value for _, value in points))


def moving_mean(series: Series) -> Series | None:
    """Centred mean over a tenth of the points, one-sided at the ends; None for fewer than 40 points."""
    if len(series.steps) < 40:
        return None
    reach = len(series.values) // 20
    total = list(accumulate(series.values, initial=0.0))
    means = []
    for i in range(len(series.values)):
        start, end = max(0, i - reach), min(len(series.values), i + reach + 1)
        means.append((total[end] - total[start]) / (end - start))
    return Series(series.steps, tuple(means))


def finite(series: Series) -> Series:
    """The series without values that cannot be drawn."""
    points = [(step, value) for step, value in zip(series.steps, series.values, strict=True) if math.isfinite(value)]
    return Series(tuple(step for step, _ in points), tuple(value for _, value in points))


def num_not_finite(series: Series) -> int:
    return sum(not math.isfinite(value) for value in series.values)


def panels_of(metrics: Mapping[str, Series]) -> list[tuple[Panel, dict[str, Series]]]:
    """The panels for which there are metrics, each with label -> finite series."""
    filled = []
    for panel in PANELS:
        lines: dict[str, Series] = {}
        for name, label in panel.metrics.items():
            series = finite(metrics.get(name, Series((), ())))
            if len(series.steps) >= 2:
                lines.setdefault(label, series)
        if lines:
            filled.append((panel, lines))
    return filled


def bands_of(panel: Panel, metrics: Mapping[str, Series]) -> dict[str, Band]:
    """label -> the ends of its interval, if NAME_low and NAME_high were logged with NAME."""
    bands: dict[str, Band] = {}
    for name, label in panel.metrics.items():
        ends = [finite(metrics.get(name + end, Series((), ()))) for end in ("_low", "_high")]
        if name in metrics and metrics[name].steps == ends[0].steps == ends[1].steps:
            bands.setdefault(label, (ends[0], ends[1]))
    return bands
