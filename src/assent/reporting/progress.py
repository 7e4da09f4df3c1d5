"""How far a run is, and its main figures: shown below the verdict if there is no evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from assent.reporting.choice import choice_of
from assent.reporting.formatting import cost, nats, number
from assent.reporting.held_out import HeldOut, held_out
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
    stage = next((stage for stage in source.stages if not stage.finished and stage.fault is None), None)
    if stage is None:
        return None
    share = None if not stage.planned_steps else min(1.0, stage.step / stage.planned_steps)
    written = "" if stage.last_written is None else f"{stage.last_written:%Y-%m-%d %H:%M:%S} UTC"
    return Progress(stage=stage.name, step=stage.step, planned=stage.planned_steps, share=share, written=written)


def trained_stage(stages: Sequence[Stage]) -> Stage | None:
    """The last stage that made an update; without one, the last that logged anything. Scores and samples have no
    steps."""
    logged = [stage for stage in stages if stage.metrics]
    return next((stage for stage in reversed(logged) if stage.step), logged[-1] if logged else None)


def tiles_of(source: Source) -> list[Tile]:
    """At most five main figures of the stage that is running, or else of the last one that was trained."""
    running = (stage for stage in source.stages if stage.metrics and not stage.finished)
    stage = next(running, trained_stage(source.stages))
    if stage is None:
        return []
    tiles: list[Tile] = []
    if source.is_finished and (choice := choice_of(source.stages)):
        ends = f"95% interval {number(choice.low)} to {number(choice.high)}, by the reward that chose"
        tiles.append(Tile(title=f"Gain of the best of {choice.n}", value=number(choice.gain), beside=ends))
    tiles += [_tile(figure) for figure in held_out(stage)]
    known = {figure.title for figure in held_out(stage)}
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
        if series is not None and len(series.values) > 1 and title not in known:
            known.add(title)
            tiles.append(_moved(title, series, unit))
    tiles = tiles[: TILES - 1]
    seconds = stage.last("cost/seconds")
    if seconds is not None:
        tiles.append(
            Tile(title="Time", value=cost(seconds, "cost/seconds"), beside=f"step {stage.step:,}" if stage.step else "")
        )
    return tiles


def _moved(title: str, series: Series, unit: str) -> Tile:
    parts = ends_of(series)
    if parts is None:
        return Tile(title=title, value="not finite")
    shown = nats if unit == "nats" or title == "Margin" else number  # a margin, too, has noise in place of 0
    start, now = map(shown, parts[:2])
    return Tile(title=title, value=now, start=start, unit=unit, beside=f"training, {of_steps(parts[2])}")


def ends_of(series: Series) -> tuple[float, float, int] | None:
    """Means of the first and of the last steps, and of how many: a tenth of them, five at least, half at most. None if
    no value is finite."""
    values = [value for value in series.values if math.isfinite(value)]
    if not values:
        return None
    count = max(1, min(len(values) // 2, max(5, len(values) // 10)))
    return sum(values[:count]) / count, sum(values[-count:]) / count, count


def of_steps(count: int) -> str:
    return f"means of {count} steps" if count > 1 else "single steps"


def _tile(figure: HeldOut) -> Tile:
    beside = f"95% interval {figure.ends}" if figure.ends else "no interval was logged"
    return Tile(
        title=f"{figure.title} (held out)", value=figure.value, start=figure.start, unit=figure.unit, beside=beside
    )
