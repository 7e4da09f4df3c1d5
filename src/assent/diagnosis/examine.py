"""Asks every rule about a case, and says what was found, what was not checked, and whether that is enough to judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import NotChecked, Rule, applying
from assent.diagnosis.rules import all_rules

Verdict = Literal["healthy", "findings", "cannot be judged yet"]
FEWEST_STEPS = 8
"""Logged values of the longest series below which a run without findings is not called healthy; rows of data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the rules say about one case. `checked` names the rules that had an answer."""

    case: Case
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    not_checked: tuple[tuple[str, str], ...]
    """(rule, reason)."""
    too_early: bool = False
    """A rule found that nothing can be judged yet."""
    data: Any = None
    """The rows of a run's own data, where they were looked at with it."""

    @property
    def verdict(self) -> Verdict:
        if any(finding.severity != "info" for finding in self.findings):
            return "findings"
        beyond_metrics = self.case.models is not None or self.case.logs is not None
        enough = beyond_metrics or self.looked_at >= FEWEST_STEPS
        return "healthy" if self.checked and not self.too_early and enough else "cannot be judged yet"

    @property
    def looked_at(self) -> int:
        """Rows of the data; of a run, values of its longest series."""
        return (
            len(self.case.data) if self.case.data is not None else max(map(len, self.case.series.values()), default=0)
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "findings": [finding.as_dict() for finding in self.findings],
            "checked": list(self.checked),
            "not_checked": [{"rule": rule, "reason": reason} for rule, reason in self.not_checked],
        }


def with_data(report: Report, data: Report) -> Report:
    """What was found in a run, with what was found in the data that it trains on."""
    return replace(
        report,
        findings=_ordered((*report.findings, *data.findings)),
        checked=(*report.checked, *data.checked),
        not_checked=(*report.not_checked, *data.not_checked),
        data=data.case.data,
    )


def _ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: finding.weight))


def examine(case: Case, rules: Iterable[Rule] | None = None) -> Report:
    """Asks the rules that apply to the case's stage; all of ours, unless others are given."""
    findings: list[Finding] = []
    too_early = False
    checked: list[str] = []
    not_checked: list[tuple[str, str]] = []
    for rule in applying(all_rules() if rules is None else rules, case):
        try:
            found = rule.ask(case)
        except NotChecked as reason:
            not_checked.append((rule.name, str(reason)))
            continue
        checked.append(rule.name)
        if found is not None:
            findings.append(found)
            too_early = too_early or rule.too_early
    return Report(
        case=case,
        findings=_ordered(findings),
        checked=tuple(checked),
        not_checked=tuple(not_checked),
        too_early=too_early,
    )
