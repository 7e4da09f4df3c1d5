"""How far a run is, and its main figures: shown below the verdict if there is no evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from assent.reporting.formatting import cost, nats, number, percent, percent_interval
from assent.reporting.sources import Source, Stage
from assent.runs.reading import Series

TILES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A figure: its value at the start, its value now, and a remark."""

    title: str
    value: str
    start: str = ""
    unit: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The stage that is running. `share` is None if its number of steps is unknown."""

    stage: str
    step: int
    planned: int | None
    share: float | None
    written: str
    """Time (UTC) of the last metrics."""


def progress_of(source: Source) -> Progress | None:
    """None if everything is finished."""
    stage = next((stage for stage in source.stages if not stage.finished), None)
    if stage is None:
        return None
    share = None if not stage.planned_steps else min(1.0, stage.step / stage.planned_steps)
    written = "" if stage.last_written is None else f"{stage.last_written:%Y-%m-%d %H:%M:%S} UTC"
    return Progress(stage=stage.name, step=stage.step, planned=stage.planned_steps, share=share, written=written)


def tiles_of(source: Source) -> list[Tile]:
    """At most five main figures of the stage that is running, or else of the last one that was trained."""
    trained = [stage for stage in source.stages if stage.metrics]
    if not trained:
        return []
    stage = next((stage for stage in trained if not stage.finished), trained[-1])
    tiles = [*_held_out(stage)]
    sampled = "objective/scores" in stage.metrics  # then the loss does not measure progress
    for title, metric, unit in (
        ("Reward", "objective/scores", ""),
        ("KL to the reference", "objective/kl", "nats"),
        ("Margin", "rewards/margins", ""),
        ("Margin", "margin", ""),
        ("Loss", "loss", ""),
        ("Tokens", "rollout/completion_length", ""),
    ):
        series = stage.metrics.get(metric)
        if title == "Loss" and sampled:
            continue
        if series is not None and len(series.values) > 1 and title not in {tile.title for tile in tiles}:
            tiles.append(_moved(title, series, unit))
    tiles = tiles[: TILES - 1]
    seconds = stage.last("cost/seconds")
    if seconds is not None:
        tiles.append(Tile(title="Time", value=cost(seconds, "cost/seconds"), beside=f"step {stage.step:,}"))
    return tiles


def _moved(title: str, series: Series, unit: str) -> Tile:
    values = [value for value in series.values if math.isfinite(value)]
    if not values:
        return Tile(title=title, value="not finite")
    last = values[-max(1, len(values) // 20) :]
    first = values[: len(last)]
    beside = f"mean of the last {len(last)} steps" if len(last) > 1 else ""
    shown = nats if unit == "nats" else number
    start, now = (shown(sum(part) / len(part)) for part in (first, last))
    return Tile(title=title, value=now, start=start, unit=unit, beside=beside)


def _held_out(stage: Stage) -> list[Tile]:
    """The share of held-out pairs that are ranked as labelled, with its interval if it was logged."""
    for metric in ("eval_rewards/accuracies", "eval_accuracy"):
        value = stage.last(metric)
        if value is not None:
            ends = {end: stage.last(f"{metric}_{end}") for end in ("low", "high")}
            known = None not in ends.values()
            return [
                Tile(
                    title="Accuracy (held out)",
                    value=percent(value),
                    beside=f"95% interval {percent_interval(ends)}" if known else "no interval was logged",
                )
            ]
    return []
