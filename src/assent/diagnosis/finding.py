"""Findings of the doctor, and the rules that make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Series = Mapping[str, Sequence[tuple[int, float]]]
"""Metrics by name: (step, value), in the order of the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A logged figure that supports the finding."""

    metric: str
    steps: tuple[int, int] | None
    """First and last step it was seen at."""
    value: float
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sentence each: what is wrong, and what to do. findings.json holds them (reporting/SCHEMA.md)."""

    rule: str
    severity: Literal["fault", "warning"]
    """A fault stops a run, unless it was started with --no-stop."""
    verdict: str
    evidence: tuple[Evidence, ...]
    next_action: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A check of the metrics of a run, cheap enough for every step.

    metrics   names of the metrics that it reads; it is only checked if the log has all of them
    check     from their last `window` values to a finding, or None
    """

    name: str
    metrics: tuple[str, ...]
    window: int
    check: Callable[[Series], Finding | None]
