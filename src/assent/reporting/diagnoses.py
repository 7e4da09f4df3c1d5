"""The doctor's findings of a stage, each with the curve of the first metric that convicts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from assent.reporting.charts import line_chart
from assent.reporting.formatting import number
from assent.reporting.sources import Stage
from assent.runs.reading import Series


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFinding:
    """`metric` is drawn in `svg`, with the steps of its evidence shaded; both are empty where no curve was logged."""

    finding: Mapping[str, Any]
    metric: str
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    stage: Stage
    findings: tuple[ShownFinding, ...]
    not_checked: Sequence[Mapping[str, Any]]


def diagnoses_of(stages: Sequence[Stage]) -> list[Diagnosis]:
    """Of the stages that the doctor looked at."""
    return [_diagnosis(stage, index) for index, stage in enumerate(stages) if stage.findings is not None]


def _diagnosis(stage: Stage, index: int) -> Diagnosis:
    assert stage.findings is not None
    shown = [_shown(stage, finding, f"s{index}f{n}") for n, finding in enumerate(stage.findings["findings"])]
    return Diagnosis(stage=stage, findings=tuple(shown), not_checked=stage.findings["not_checked"])


def _shown(stage: Stage, finding: Mapping[str, Any], identity: str) -> ShownFinding:
    for fact in finding.get("evidence") or ():
        series = stage.metrics.get(str(fact.get("metric")))
        if series is None or len(series) < 2:
            continue
        name, steps = str(fact["metric"]), fact.get("steps")
        described = f"{stage.name}: {name}, from {number(series.values[0])} to {number(series.last)}"
        svg = line_chart(
            {name: series},
            identity=identity,
            description=described,
            shaded=_within(series, steps),
        )
        return ShownFinding(finding=finding, metric=name, svg=Markup(svg))
    return ShownFinding(finding=finding, metric="", svg=Markup(""))


def _within(series: Series, steps: Sequence[int] | None) -> tuple[int, int] | None:
    """The part of `steps` that the curve covers; None for less than two steps of it."""
    if not steps:
        return None
    first, last = max(steps[0], series.steps[0]), min(steps[1], series.steps[-1])
    return (first, last) if first < last else None
