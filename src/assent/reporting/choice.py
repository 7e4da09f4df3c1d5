"""What best-of-n gained: the result of a stage that keeps answers and trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assent.reporting.formatting import number
from assent.reporting.sources import Stage
from assent.runs.files import as_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The gain in score over a single completion, by the reward that chose, and its interval."""

    n: int
    gain: float
    low: float
    high: float
    sentence: str


def choice_of(stages: Sequence[Stage]) -> Choice | None:
    """Of the last stage that did anything, if that was best-of-n with all of its samples and an interval."""
    last = next((stage for stage in reversed(stages) if stage.metrics), None)
    if last is None or last.command != "best-of-n":
        return None
    curve, n = last.result.get("curve"), last.result.get("n")
    points = curve if isinstance(curve, Sequence) else ()
    gain = next((point["gain"] for point in points if isinstance(point, Mapping) and point.get("n") == n), None)
    if gain is None or n is None:
        return None
    value, low, high = (as_number(gain[end]) for end in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return None
    sentence = (
        f"The best of {n} completions scores {number(value)} more than a single one "
        f"(95% interval {number(low)} to {number(high)}, {gain['clusters']:,} prompts)."
    )
    return Choice(n=int(n), gain=value, low=low, high=high, sentence=sentence)
