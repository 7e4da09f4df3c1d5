"""Watches a run while it trains: an observer of its log that asks rules about what was logged so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import NotChecked, Rule, applying
from assent.diagnosis.rules import cheap_rules
from assent.errors import StopRun
from assent.runs.files import as_number
from assent.runs.reading import Series


class Watch:
    """Call it with a step and its metrics. Each rule reports once.

    A rule with a window is asked at each line that has its metrics.

    report   called with each finding
    stop     whether a fatal finding raises StopRun
    about    what is known of the run besides its metrics
    """

    def __init__(
        self,
        *,
        report: Callable[[Finding], None],
        stop: bool,
        rules: Sequence[Rule] | None = None,
        about: Case | None = None,
    ) -> None:
        self.report, self.stop, self.about = report, stop, about or Case()
        self.rules = applying(cheap_rules() if rules is None else rules, self.about)
        self._longest = max((rule.window or 1 for rule in self.rules), default=1)
        self._series: dict[str, list[tuple[int, float]]] = {name: [] for rule in self.rules for name in rule.names}

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self._take(step, values)
        for rule in list(self.rules):
            if not all(any(name in values for name in entry.split(" or ")) for entry in rule.metrics):
                continue
            try:
                finding = rule.ask(self._case(rule))
            except NotChecked:
                continue
            if finding is not None:
                self.rules.remove(rule)
                self.report(finding)
                if self.stop and finding.severity == "fatal":
                    raise StopRun(finding.as_dict())

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes up the lines that the run wrote before it was resumed; no rule is asked."""
        for row in rows:
            self._take(row["step"], row)

    def _case(self, rule: Rule) -> Case:
        series = {}
        for name in rule.names:
            if last := self._series[name][-(rule.window or 1) :]:
                series[name] = Series(*zip(*last, strict=True))
        return replace(self.about, series=series)

    def _take(self, step: int, values: Mapping[str, Any]) -> None:
        for name, series in self._series.items():
            value = as_number(values.get(name))
            if value is not None:
                series.append((step, value))
                del series[: -self._longest]
