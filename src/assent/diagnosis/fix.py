"""The changes that findings name, applied to a run's configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from assent.diagnosis.finding import Change, Finding

ALSO_CALLED = {"kl_coef": "beta"}
"""An option's name in commands that do not have it: online-dpo's beta is the weight of its KL."""


def own_name(option: str, config: Mapping[str, Any]) -> str:
    other = ALSO_CALLED.get(option, option)
    return other if option not in config and other in config else option


@dataclass(frozen=True, slots=True)
class Applied:
    """One option, before and after, and the rule that asked for it."""

    option: str
    before: Any
    after: Any
    rule: str

    def text(self) -> str:
        return f"{self.option} {shown(self.before)} -> {shown(self.after)}"


def shown(value: Any) -> str:
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def changes(config: Mapping[str, Any], findings: Iterable[Finding]) -> list[Applied]:
    """The changes of options that the run has, the gravest finding first: an option is changed once."""
    made: dict[str, Applied] = {}
    for finding in sorted(findings, key=lambda finding: finding.weight):
        for named, change in finding.fix.items():
            option = own_name(named, config)
            if option in made or option not in config:
                continue
            before = config[option]
            after = change.applied(before)
            if after != before:
                made[option] = Applied(option, before, after, finding.rule)
    return list(made.values())


def described(fix: Mapping[str, Change], config: Mapping[str, Any]) -> list[str]:
    """A finding's changes as text, with the run's own values where they are known. What is so already is left out."""
    lines: list[str] = []
    for named, change in fix.items():
        option = own_name(named, config)
        if option in config:
            applied = Applied(option, config[option], change.applied(config[option]), "")
            lines += [applied.text()] if applied.after != applied.before else []
        elif change.times is not None:
            lines.append(f"{option} × {change.times:g}")
        else:
            lines.append(f"{option} = {shown(change.value)}")
    return lines
