"""Watches a run while it trains: an observer of its log that asks rules about what was logged so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from assent.diagnosis.case import Case, is_number, make_case
from assent.diagnosis.finding import Finding, Severity, at_least
from assent.diagnosis.rule import NotChecked, Rule, applying
from assent.diagnosis.rules import all_rules
from assent.errors import StopRun
from assent.runs.files import as_number
from assent.runs.reading import Series

HELD_OUT = "eval_"
FEWEST, GROWTH = 20, 1.25
"""Lines after which rules of the whole run are asked without held-out figures, and again when the log has grown so."""


class Watch:
    """Call it with a step and its metrics. Each rule reports once.

    A rule with a window is asked at each line that has its metrics; the others look at the whole run, and are asked at
    each line of held-out figures. Where these are rare or absent, they are asked whenever the log has grown by a
    quarter, for what is fatal alone: whatever else they see in a part of a run may be gone at its end.

    report   called with each finding
    stop_on  least severity of a finding that raises StopRun; None: none does
    about    what is known of the run besides its metrics
    """

    def __init__(
        self,
        *,
        report: Callable[[Finding], None],
        stop_on: Severity | None,
        rules: Sequence[Rule] | None = None,
        about: Case | None = None,
    ) -> None:
        self.report, self.stop_on, self.about = report, stop_on, about or Case()
        self.rules = [rule for rule in applying(all_rules() if rules is None else rules, self.about)
                      if rule.looks_at == "log" and rule.metrics]  # fmt: skip
        self._lines, self._asked_at = 0, 0
        self._columns: dict[str, tuple[list[int], list[float]]] = {}

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self._take(step, values)
        is_held_out = any(name.startswith(HELD_OUT) for name in values)
        is_due = self._lines >= max(FEWEST, GROWTH * self._asked_at)
        whole = self.whole() if is_held_out or is_due else None
        if whole is not None:
            self._asked_at = self._lines
        for rule in list(self.rules):
            if rule.window is not None and _has_metrics(rule, values):
                self._ask(rule, self._last(rule, rule.window))
            elif rule.window is None and whole is not None:
                self._ask(rule, whole, least=None if is_held_out else "fatal")

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes up the lines that the run wrote before it was resumed; no rule is asked."""
        for row in rows:
            self._take(row["step"], row)

    def _ask(self, rule: Rule, case: Case, *, least: Severity | None = None) -> None:
        """`least`: the severity below which a finding is left for later."""
        if case.stage is not None and case.stage not in rule.stages:  # known since more was logged
            return
        try:
            finding = rule.ask(case)
        except NotChecked:
            return
        if finding is None or finding.severity == "info":  # what is no fault is for the end of the run
            return
        if least is not None and not at_least(finding.severity, least):
            return
        self.rules.remove(rule)
        self.report(finding)
        if self.stop_on is not None and at_least(finding.severity, self.stop_on):
            raise StopRun(finding.as_dict())

    def _last(self, rule: Rule, window: int) -> Case:
        """The last values that are numbers: `make_case` leaves the others out, too, and takes longer."""
        series = {}
        for name in rule.names:
            steps, values = self._columns.get(name, ((), ()))
            kept = [pair for pair in zip(steps[-window:], values[-window:], strict=True) if is_number(pair[1])]
            if kept:
                series[name] = Series(tuple(step for step, _ in kept), tuple(value for _, value in kept))
        return replace(self.about, series=series)

    def whole(self, status: str = "running") -> Case:
        """Everything that was logged so far."""
        about = self.about
        return make_case(
            self._columns, config=about.config, stage=about.stage, source=about.source, status=status,
            planned_steps=about.planned_steps,
        )  # fmt: skip

    def _take(self, step: int, values: Mapping[str, Any]) -> None:
        self._lines += 1
        for name, raw in values.items():
            value = as_number(raw)
            if name != "step" and value is not None:
                steps, column = self._columns.setdefault(name, ([], []))
                steps.append(step)
                column.append(value)


def _has_metrics(rule: Rule, values: Mapping[str, float]) -> bool:
    return all(any(name in values for name in entry.split(" or ")) for entry in rule.metrics)
