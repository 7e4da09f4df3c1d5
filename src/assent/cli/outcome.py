"""What a command returns: a JSON document, the same as text, and an exit status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST = 6
"""Figures of a summary."""

FIRST = (
    "eval_accuracy",
    "eval_rewards/accuracies",
    "eval_label_accuracy",
    "eval_objective/scores",
    "eval_label_error",
    "eval_loss",
    "eval_kl",
    "objective/scores",
    "objective/kl",
    "mean_reward",
    "loss",
    "accuracy",
    "rewards/accuracies",
    "rewards/margins",
    "margin",
    "rollout/completion_length",
    "rollout/eos_rate",
    "objective/abstained",
)
"""What a summary shows, in this order, as far as there is room: held-out figures before those of training."""
LAST = "cost/seconds"
"""Always among them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`document` is printed with --json, `text` without, and `whole` in its place with --verbose, if there is more to
    say. `exit_status` 1: the command ran and found a fault."""

    document: Mapping[str, Any]
    text: str
    exit_status: int = 0
    whole: str | None = None


def figures(metrics: Mapping[str, Any]) -> list[str]:
    """One line for each metric."""
    return [_line(name, value) for name, value in sorted(metrics.items())]


def summary(metrics: Mapping[str, Any], *, of_last_step: bool = False) -> list[str]:
    """A line for each of the six figures that matter most, with their intervals, and one that says how many there are.

    of_last_step   figures that are not held out are those of the run's last step, and the line says so
    """
    names = [name for name in FIRST if name in metrics][: MOST - (LAST in metrics)]
    lines = []
    for name in [*names, *([LAST] if LAST in metrics else [])]:
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        step = "  last step" if of_last_step and name != LAST and not name.startswith("eval_") else ""
        if low is None or high is None:
            lines.append(_line(name, metrics[name]) + step)
        else:  # all three with as many digits
            value, low, high = (f"{number:#.4g}".rstrip(".") for number in (metrics[name], low, high))
            lines.append(f"{_line(name, value)}  [{low}, {high}]{step}")
    more = len(metrics) - len(lines)
    return [*lines, f"  --verbose shows all {len(metrics)} figures"] if more > 0 else lines


def _line(name: str, value: Any) -> str:
    return f"  {name:<28} {value:.6g}" if isinstance(value, float | int) else f"  {name:<28} {value}"
