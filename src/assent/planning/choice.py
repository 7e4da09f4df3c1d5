"""Chooses a method: the first rule that holds. It says what the others give up, and when the answer would change.

The rules are data (rules.yaml); this file only applies them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from assent.errors import ConfigError
from assent.planning.facts import KINDS
from assent.planning.rules import (
    ASKED,
    Reason,
    Situation,
    described,
    failing,
    filled,
    first_that_holds,
    holds,
    reason_of,
    rules,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A method that was not chosen. `excluded`: why it cannot be; None: it can, and gives up what stands there."""

    method: str
    title: str
    excluded: str | None
    gives_up: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A method, what comes before it, its options, and why.

    first     demonstrations, chosen (supervised tuning on either) or none
    options   of the method's own stage, or of the reward model's where `option_of` says so
    changes   sentences: under which facts the answer would be another
    """

    method: str
    title: str
    rule: str
    first: str
    options: Mapping[str, Any]
    reward_options: Mapping[str, Any]
    reasons: tuple[Reason, ...]
    alternatives: tuple[Alternative, ...]
    changes: tuple[str, ...]

    @property
    def cites(self) -> frozenset[str]:
        """Every fact that some reason names."""
        return frozenset().union(*(reason.cites for reason in self.reasons))

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "title": self.title,
            "rule": self.rule,
            "first": self.first,
            "options": dict(self.options),
            "reward_options": dict(self.reward_options),
            "reasons": [reason.as_dict() for reason in self.reasons],
            "alternatives": [
                {"method": one.method, "excluded": one.excluded, "gives_up": one.gives_up, "source": one.source}
                for one in self.alternatives
            ],
            "changes": list(self.changes),
        }


def choose(situation: Situation, unfit: Mapping[str, str] | None = None, *, method: str | None = None) -> Choice:
    """The choice. `unfit`: methods that do not fit memory, time or money, each with the reason.

    method   plan this one, whatever the rules prefer

    Raises ConfigError where every method that the data supports is excluded, and names what to lift; and for a `method`
    that is excluded.
    """
    excluded = exclusions(situation, unfit or {})
    rule = _preferred(situation, excluded)
    if rule is None:
        raise _nothing_left(situation, unfit or {})
    if method is not None and method != rule["method"]:
        rule = _asked_for(method, excluded, preferred=rule)
    method = rule["method"]
    reasons = [reason_of(rule, situation)]
    before = first_that_holds(rules()["first"], situation, method)
    if before is not None:
        reasons.append(reason_of(before, situation))
    options: dict[str, dict[str, Any]] = {"method": {}, "reward": {}}
    for name in dict.fromkeys(one["option"] for one in rules()["options"]):
        alike = [one for one in rules()["options"] if one["option"] == name]
        if (found := first_that_holds(alike, situation, method)) is not None:
            options["reward" if name == "reward" else "method"] |= filled(found["set"], situation.facts)
            reasons.append(reason_of(found, situation))
    reasons += [_of_constraint(name) for name in sorted(situation.constraints)]
    reasons += [_of_problem(name) for name in situation.problems]
    return Choice(
        method=method,
        title=rules()["methods"][method]["title"],
        rule=rule["name"],
        first="none" if before is None else before["value"],
        options=options["method"],
        reward_options=options["reward"],
        reasons=tuple(reasons),
        alternatives=_alternatives(method, excluded),
        changes=tuple(_changes(situation, rule, excluded)),
    )


def _asked_for(method: str, excluded: Mapping[str, str], *, preferred: Mapping[str, Any]) -> dict[str, Any]:
    """A rule that holds because the user says so."""
    if method in excluded:
        raise ConfigError(f"{method} is not possible here", got=excluded[method], fix="give another method, or none")
    reason = f"it is asked for; by the facts it would be {preferred['method']}: {preferred['reason']}"
    return {"name": "asked for", "when": {}, "method": method, "reason": reason, "source": preferred["source"]}


def exclusions(situation: Situation, unfit: Mapping[str, str]) -> dict[str, str]:
    """Methods that cannot be, with the reason: the data lacks what they need, a constraint, memory, time or money."""
    found: dict[str, str] = {}
    for name, method in rules()["methods"].items():
        if not any(holds(need, situation) for need in method["needs"]):
            found[name] = f"the data lacks what it needs: {method['wants']}"
            continue
        ruled_out = [c for c in sorted(situation.constraints) if name in rules()["constraints"][c]["excludes"]]
        if ruled_out:
            found[name] = f"ruled out by {' and '.join(ruled_out)}"
        elif name in unfit:
            found[name] = unfit[name]
    return found


def _preferred(situation: Situation, excluded: Mapping[str, str]) -> Mapping[str, Any] | None:
    held = (rule for rule in rules()["prefer"] if holds(rule["when"], situation))
    return next((rule for rule in held if rule["method"] not in excluded), None)


def _nothing_left(situation: Situation, unfit: Mapping[str, str]) -> ConfigError:
    """The error, with the fewest constraints whose lifting leaves a method."""
    given = sorted(situation.constraints)
    for size in range(1, len(given) + 1):
        for lifted in combinations(given, size):
            freer = Situation(situation.facts, situation.constraints - set(lifted), situation.problems)
            if (rule := _preferred(freer, exclusions(freer, unfit))) is not None:
                return ConfigError(
                    "the constraints exclude every method that this data supports",
                    got=", ".join(given),
                    expected="a method that the data and the constraints allow",
                    fix=f"lift {' and '.join(lifted)}: then {rules()['methods'][rule['method']]['title']} is possible; "
                    "or bring other data",
                )
    limits = "; ".join(f"{name}: {why}" for name, why in unfit.items())
    return ConfigError(
        "no method is possible with this data" + (" and these limits" if limits else ""),
        got=limits or "no constraint that could be lifted",
        fix="give a longer deadline, a larger budget or larger hardware" if limits else "bring labels or a reward",
    )


def _of_constraint(name: str) -> Reason:
    rule = rules()["constraints"][name]
    return Reason(rule["reason"], frozenset({name}), rule["source"])


def _of_problem(name: str) -> Reason:
    rule = rules()["problems"][name]
    mends = "needs" if rule["mends"] else "is not mended by any preference method; it needs"
    return Reason(f"{name} {mends} {rule['needs']}", frozenset({"problems", name}), rule["source"])


def _alternatives(chosen: str, excluded: Mapping[str, str]) -> tuple[Alternative, ...]:
    return tuple(
        Alternative(method=name, title=method["title"], excluded=excluded.get(name), gives_up=method["gives_up"],
                    source=method["source"])
        for name, method in rules()["methods"].items()
        if name != chosen
    )  # fmt: skip


MOST_MISSING = 2
"""Conditions of another rule that may fail for it to be named as a way in which the answer would change."""


def _changes(situation: Situation, chosen: Mapping[str, Any], excluded: Mapping[str, str]) -> list[str]:
    """Rules that would decide in place of this one if a condition or two were met; then what would undo this one."""
    found: list[str] = []
    for rule in rules()["prefer"]:
        if rule is chosen:
            break
        if rule["method"] == chosen["method"] or rule["method"] in excluded:
            continue
        missing = list(failing(rule["when"], situation))
        if len(missing) <= MOST_MISSING and all(_can_change(*one, situation) for one in missing):
            found.append(f"{rule['method']}, with {' and '.join(described(*one) for one in missing)}")
    for name, reason in excluded.items():
        if reason.startswith("ruled out by") and any(
            rule["method"] == name and holds(rule["when"], situation) for rule in rules()["prefer"]
        ):
            given = reason.removeprefix("ruled out by ").split(" and ")
            found.append(f"{name}, without {' and '.join(described('constraint', one) for one in given)}")
    return list(dict.fromkeys([*found, *_undone(situation, chosen)]))


def _undone(situation: Situation, chosen: Mapping[str, Any]) -> Iterator[str]:
    """What would be chosen if more of a kind were there than this rule is for, or with one more constraint."""
    for name, wanted in chosen["when"].items():
        if isinstance(wanted, Mapping) and "below" in wanted:
            more = replace(situation, facts=replace(situation.facts, **{name: wanted["below"]}))
            rule = _preferred(more, exclusions(more, {}))
            if rule is not None and rule["method"] != chosen["method"]:
                yield f"{rule['method']}, once {described(name, {'at_least': wanted['below']})}"
    for name, constraint in rules()["constraints"].items():
        if chosen["method"] in constraint["excludes"]:
            tighter = replace(situation, constraints=situation.constraints | {name})
            rule = _preferred(tighter, exclusions(tighter, {}))
            yield f"{'nothing' if rule is None else rule['method']}, with {described('constraint', name)}"


def _can_change(name: str, wanted: Any, situation: Situation) -> bool:
    """Whether a condition is on something that may yet become so: data grows, and does not go away."""
    if name in KINDS:
        return isinstance(wanted, Mapping) and wanted.get("at_least", 0) > situation.facts[name]
    return name in ASKED or name in ("any", "feedback", "reward", "agreement", "noise")


def spending(situation: Situation) -> list[dict[str, Any]]:
    """How to divide a budget over the problems that the user named: the share of each, and what it buys."""
    listed = [(name, rules()["problems"][name]) for name in situation.problems]
    total = sum(rule["share"] for _, rule in listed)
    return [
        {"problem": name, "mends": rule["mends"], "share": rule["share"] / total if total else 0.0,
         "needs": rule["needs"], "source": rule["source"]}
        for name, rule in listed
    ]  # fmt: skip
