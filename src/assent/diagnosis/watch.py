"""Watches a run while it trains: an observer of its log that checks the cheap rules at every line of metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from assent.diagnosis.finding import Finding, Rule
from assent.diagnosis.rules import CHEAP
from assent.errors import StopRun
from assent.runs.files import as_number


class Watch:
    """Call it with a step and its metrics. Each rule reports once.

    report   called with each finding
    stop     whether a fault raises StopRun
    """

    def __init__(self, *, report: Callable[[Finding], None], stop: bool, rules: Sequence[Rule] = CHEAP) -> None:
        self.report, self.stop, self.rules = report, stop, list(rules)
        longest = max((rule.window for rule in rules), default=1)
        self._series: dict[str, deque[tuple[int, float]]] = {
            name: deque(maxlen=longest) for rule in rules for name in rule.metrics
        }

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self._take(step, values)
        for rule in list(self.rules):
            if not all(name in values for name in rule.metrics):
                continue
            finding = rule.check({name: list(self._series[name])[-rule.window :] for name in rule.metrics})
            if finding is not None:
                self.rules.remove(rule)
                self.report(finding)
                if self.stop and finding.severity == "fault":
                    raise StopRun(finding.as_dict())

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes up the lines that the run wrote before it was resumed; no rule is asked."""
        for row in rows:
            self._take(row["step"], row)

    def _take(self, step: int, values: Mapping[str, Any]) -> None:
        for name, series in self._series.items():
            value = as_number(values.get(name))
            if value is not None:
                series.append((step, value))
