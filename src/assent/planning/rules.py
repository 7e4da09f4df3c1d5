"""The rules of the plan, from rules.yaml: conditions on facts, and reasons that quote them. No rule stands in code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from assent.planning.facts import Facts, shown

QUOTED = re.compile(r"\{(\w+)\}")
ASKED = ("constraint", "problem")
"""Conditions on what the user gave, in the place of a fact."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a rule may look at: the facts, and what the user rules out or wants mended."""

    facts: Facts
    constraints: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence, the facts that it rests on (by name), and where the rule comes from."""

    text: str
    cites: frozenset[str]
    source: str

    def as_dict(self) -> dict[str, Any]:
        return {"text": self.text, "cites": sorted(self.cites), "source": self.source}


@cache
def rules() -> Mapping[str, Any]:
    """rules.yaml as it stands."""
    text = (files("assent.planning") / "rules.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def holds(when: Mapping[str, Any], situation: Situation) -> bool:
    return not any(True for _ in failing(when, situation))


def failing(when: Mapping[str, Any], situation: Situation) -> Iterator[tuple[str, Any]]:
    """The conditions that do not hold: (name, what it must be)."""
    for name, wanted in when.items():
        if name == "any":
            if not any(holds(one, situation) for one in wanted):
                yield name, wanted
        elif name in ASKED:
            given: Collection[str] = situation.constraints if name == "constraint" else situation.problems
            if wanted not in given:
                yield name, wanted
        elif not meets(situation.facts[name], wanted):
            yield name, wanted


def meets(value: Any, wanted: Any) -> bool:
    """Whether a fact is what a condition wants: a value, one of a list, or a size from `at_least` to below `below`."""
    if isinstance(wanted, Mapping):
        if value is None:
            return False
        return value >= wanted.get("at_least", value) and ("below" not in wanted or value < wanted["below"])
    return value in wanted if isinstance(wanted, list) else value == wanted


def described(name: str, wanted: Any) -> str:
    """A condition in words, `pairs: 1,000 or more`; of what the user gives, the option: `--feedback fresh`."""
    if name == "any":
        return " or ".join(described(*item) for one in wanted for item in one.items())
    if name in ASKED or name in ("feedback", "start"):
        return f"--{name} {' or '.join(_listed(wanted))}"
    if name == "reward":
        return f"a {' or a '.join(_listed(wanted))} as --reward" if wanted != "none" else "no --reward"
    label = name.replace("_", " ")
    if not isinstance(wanted, Mapping):
        return f"{label}: {' or '.join(_listed(wanted))}"
    low, high = (_size(wanted[end]) if end in wanted else None for end in ("at_least", "below"))
    if low and high:
        return f"{label}: {low} to below {high}"
    return f"{label}: {low} or more" if low else f"{label}: below {high}"


def _listed(wanted: Any) -> list[str]:
    return list(map(str, wanted if isinstance(wanted, list) else [wanted]))


def _size(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.0%}"


def reason_of(rule: Mapping[str, Any], situation: Situation) -> Reason:
    """The rule's reason, with the facts quoted."""
    return Reason(quoted(rule["reason"], situation.facts), frozenset(cited(rule, situation)), rule["source"])


def quoted(text: str, facts: Facts | Mapping[str, Any]) -> str:
    """The text with each {fact} as its value."""
    return QUOTED.sub(lambda match: shown(facts, match[1]), text)


def cited(rule: Mapping[str, Any], situation: Situation) -> Iterator[str]:
    """What the conditions and the text name: facts, and the constraint or the problem itself."""
    for name, wanted in rule.get("when", {}).items():
        if name == "any":
            yield from (key for one in wanted for key in one if holds(one, situation) and key not in ASKED)
        else:
            yield str(wanted) if name in ASKED else name
    yield from QUOTED.findall(rule["reason"])


def filled(options: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """A rule's options; a text that is one {fact} becomes its value, rounded to two places."""

    def value_of(value: Any) -> Any:
        if isinstance(value, Mapping):
            return filled(value, facts)
        quoted = QUOTED.fullmatch(value) if isinstance(value, str) else None
        return round(facts[quoted[1]], 2) if quoted else value

    return {name: value_of(value) for name, value in options.items()}


def first_that_holds(
    listed: Sequence[Mapping[str, Any]], situation: Situation, method: str
) -> Mapping[str, Any] | None:
    """Of rules for methods, the first that is for this one and holds."""
    return next((rule for rule in listed if method in rule["methods"] and holds(rule["when"], situation)), None)
