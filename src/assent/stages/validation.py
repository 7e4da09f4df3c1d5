"""Held-out data during training: its overlap with the training data, the best weights, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from assent.config.options import StageOptions
from assent.data.splitting import REMEDY, overlap, shared_prompts
from assent.data.texts import counted
from assent.errors import DataError
from assent.metrics import lookup
from assent.runs.log import RunLog
from assent.types import PromptGroup


def check_overlap(train: Sequence[PromptGroup], held_out: Sequence[PromptGroup]) -> list[str]:
    """Lines about conversations that occur in both. Raises DataError, which names rows, if a prompt occurs in both."""
    shared = shared_prompts(train, held_out)
    if shared:
        shown = "; ".join(f"{there} is {here}" for here, there in shared[:3])
        raise DataError(
            "prompts of the held-out data are in the training data too, so the figures would measure memory",
            got=f"{len(shared)} of {len(held_out)} held-out rows: {shown}{' …' if len(shared) > 3 else ''}",
            expected="no prompt that is in both",
            fix=REMEDY,
        )
    roots = overlap(train, held_out)
    if not roots.groups_with_shared_root:
        return []
    return [
        f"  {roots.groups_with_shared_root} of {roots.groups} held-out rows share their first user turn with training "
        "rows: held-out figures may look too good"
    ]


class Validation:
    """Decides when to measure on held-out data, which weights are the best so far, and when to stop. Does nothing
    without `measure`.

    `state` holds JSON values and is part of every checkpoint:

    measured   the last held-out figures
    best       step, metric, value and figures of the best so far; absent if no metric is named
    mark       the value at the last improvement by more than the threshold; patience counts from it
    waited     measurements since then
    """

    def __init__(
        self, config: StageOptions, log: RunLog, measure: Callable[[], dict[str, float]] | None = None
    ) -> None:
        self.config, self.log, self.measure = config, log, measure
        self.state: dict[str, Any] = {}

    @property
    def best_step(self) -> int | None:
        return self.state["best"]["step"] if "best" in self.state else None

    @property
    def has_to_stop(self) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and self.state.get("waited", 0) >= patience

    def before_the_first_step(self) -> bool:
        """Measures the start, so that curves begin there. True if the start is to be kept as the best so far."""
        if self.measure is None or not self.config.eval_steps:
            return False
        measured = self.measure()
        self.log.metrics(0, measured)
        return self.take(0, measured)

    def after(self, step: int, *, is_last: bool) -> bool:
        """Measures after `step` updates if that is due. True if these weights are the best so far."""
        if self.measure is None or not (is_last or (self.config.eval_steps and step % self.config.eval_steps == 0)):
            return False
        measured = self.measure()
        self.log.metrics(step, measured)
        is_best = self.take(step, measured)
        if self.has_to_stop and not is_last:
            best = self.state.get("best")
            than = (
                "none is finite" if best is None else f"none is better than {best['value']:.6g} at step {best['step']}"
            )
            waited = f"{counted(self.state['waited'], 'measurement')} of {self.config.metric_for_best_model} in a row"
            self.log.note(f"stopped after step {step}: {waited}, {than}")
        return is_best

    def take(self, step: int, measured: Mapping[str, float]) -> bool:
        """Stores the figures after `step` updates. True if they are the best so far; the first of equals is the best.

        A value that is not finite is not an improvement.
        """
        self.state["measured"] = dict(measured)
        if self.config.metric_for_best_model is None:
            return False
        name = "eval_" + self.config.metric_for_best_model.removeprefix("eval_")
        value = measured.get(name, math.nan)  # a metric that counts nothing has no figure
        is_number, best = math.isfinite(value), self.state.get("best", {})
        if is_number and _gain(name, value, over=self.state.get("mark")) > self.config.early_stopping_threshold:
            self.state |= {"mark": value, "waited": 0}
        else:
            self.state["waited"] = self.state.get("waited", 0) + 1
        is_best = is_number and _gain(name, value, over=best.get("value")) > 0
        if is_best:
            self.state["best"] = {"step": step, "metric": name, "value": value, "measured": dict(measured)}
        return is_best


def _gain(name: str, value: float, *, over: float | None) -> float:
    """By how much `value` is better than `over`, in the metric's direction. Infinite if `over` is None."""
    if over is None:
        return math.inf
    return value - over if lookup(name).direction == "higher" else over - value
