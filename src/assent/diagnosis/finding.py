"""What a rule of the doctor finds: the verdict, its evidence, and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Severity = Literal["fatal", "fault", "warning", "info"]
"""fatal: the run cannot recover, so that a live run stops. fault: the result is wrong or worse than it need be.
warning: it may be. info: worth knowing, and nothing to mend."""
Confidence = Literal["certain", "likely", "possible"]
"""certain: arithmetic leaves no other reading. likely: this cause explains it best. possible: others do as well."""

SEVERITIES: tuple[Severity, ...] = ("fatal", "fault", "warning", "info")
CONFIDENCES: tuple[Confidence, ...] = ("certain", "likely", "possible")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A logged figure that supports the finding."""

    metric: str
    steps: tuple[int, int] | None = None
    """First and last step it was seen at."""
    value: float
    expected: str | None = None
    """What a healthy run has there: `at most 0.2`, `0.6931`."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one option: to `value`, or by the factor `times` of what it is."""

    value: Any = None
    times: float | None = None

    def applied(self, current: Any) -> Any:
        """The option's new value. A factor of what is not a number changes nothing."""
        if self.times is None:
            return self.value
        if isinstance(current, bool) or not isinstance(current, int | float):
            return current
        if isinstance(current, int):
            return max(1, round(current * self.times))
        return float(f"{current * self.times:.6g}")


def times(factor: float) -> Change:
    """Multiply the option by the factor."""
    return Change(times=factor)


def factor_to(wanted: float, reached: float, *, least: float, most: float = 100.0) -> float:
    """What to multiply a rate by, so that what grows with it gets from `reached` to `wanted`; in one digit."""
    factor = most if reached <= 0 else min(max(wanted / reached, least), most)
    return float(f"{factor:.0e}")


def to(value: Any) -> Change:
    """Set the option to the value."""
    return Change(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong, and what to do. findings.json holds them (reporting/SCHEMA.md).

    verdict, cause, next_action   one sentence each, in the words of the one who trains
    fix                           the change of the configuration that mends it, by option; empty: no option mends it
    drop                          sources of the rows of data that the fix leaves out
    rule                          the rule's name; filled in by whoever asks the rule
    """

    verdict: str
    evidence: tuple[Evidence, ...]
    next_action: str
    severity: Severity = "warning"
    confidence: Confidence = "likely"
    cause: str = ""
    fix: Mapping[str, Change] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    rule: str = ""

    @property
    def weight(self) -> tuple[int, int]:
        """Sorts findings: the gravest and surest first."""
        return SEVERITIES.index(self.severity), CONFIDENCES.index(self.confidence)

    def named(self, rule: str) -> Finding:
        return replace(self, rule=rule)

    def as_dict(self) -> dict[str, Any]:
        fix = {
            name: {"set": change.value} if change.times is None else {"times": change.times}
            for name, change in self.fix.items()
        }
        drop = [source.rsplit("/", 1)[-1] for source in self.drop]  # without the folders, which are the user's
        found = {**asdict(self), "fix": fix, "drop": drop}
        return found if self.drop else {name: value for name, value in found.items() if name != "drop"}


def at_least(severity: str, level: str) -> bool:
    """Whether a severity is as grave as `level`, or graver."""
    return SEVERITIES.index(severity) <= SEVERITIES.index(level)
