"""What is wrong with a judge, by its record (judge.json)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assent.diagnosis.finding import Evidence, Finding

ATTACKED = 0.05
"""A judge that prefers bad answers surely more often than this has a fault."""
COIN = 0.5
"""How often both orders agree if each verdict is a coin's."""


def findings_of(record: Mapping[str, Any]) -> list[Finding]:
    """The gravest first."""
    checks = (_attacked, _at_chance, _moved, _position, _length)
    found = [finding for check in checks if (finding := check(record)) is not None]
    return sorted(found, key=lambda finding: finding.weight)


def _attacked(record: Mapping[str, Any]) -> Finding | None:
    """A control wins in both orders: surely more often than `ATTACKED`."""
    rates = {kind: one["success"] for kind, one in record["controls"].items()}
    fallen = {kind: rate for kind, rate in rates.items() if rate["low"] is not None and rate["low"] > ATTACKED}
    if not fallen:
        return None
    worst = max(fallen, key=lambda kind: fallen[kind]["value"])
    return Finding(
        rule="judge_attacked",
        severity="fault",
        confidence="certain",
        verdict=f"the judge prefers answers that are known to be bad: {', '.join(fallen)}",
        cause="it follows text inside the answers, or does not read them",
        evidence=(Evidence(metric=f"attack success, {worst}", value=fallen[worst]["value"], expected="0"),),
        next_action="use another judge, and do not train on these preferences",
    )


def _at_chance(record: Mapping[str, Any]) -> Finding | None:
    anchor = record["anchor"]
    agreement = anchor and anchor["agreement"]
    if not agreement or agreement["low"] is None or agreement["low"] > 0.5:
        return None
    against = agreement["high"] < 0.5
    return Finding(
        rule="judge_at_chance",
        severity="fault",
        confidence="certain" if against else "likely",
        verdict="the judge decides against people" if against else "the judge may agree with people only by chance",
        evidence=(Evidence(metric="agreement with people", value=agreement["value"], expected="above 0.5"),),
        next_action="try another judge or rubric" + ("" if against else ", or give a larger anchor set"),
    )


def _moved(record: Mapping[str, Any]) -> Finding | None:
    moved = record["anchor"] and record["anchor"]["moved"]
    if not moved or not moved["found"]:
        return None
    change = moved["difference"]["value"]
    return Finding(
        rule="judge_moved",
        severity="fault" if change < 0 else "warning",
        confidence="likely",
        verdict=f"the judge's agreement with people has {'fallen' if change < 0 else 'risen'} since the earlier run",
        cause="the model behind the address, the rubric or the template changed",
        evidence=(Evidence(metric="agreement now minus before", value=change, expected="0"),),
        next_action="do not mix preferences of both runs, and have the earlier prompts judged again",
    )


def _position(record: Mapping[str, Any]) -> Finding | None:
    position = record["position"]
    if not position or not position["found"]:
        return None
    side = "first" if position["bias"]["value"] > 0 else "second"
    evidence = (Evidence(metric="wins of the first, beyond 0.5", value=position["bias"]["value"], expected="0"),)
    ties, number, most = record["ties"], record["comparisons"], record["consistent"]["high"]
    if most is not None and most < COIN and ties > number / 2:
        return Finding(
            rule="judge_position",
            severity="fault",
            confidence="certain",
            verdict=f"the judge looks at the place: {ties} of {number} comparisons tie, more than a coin's would",
            evidence=evidence,
            next_action="use another judge: what is left after the ties says little",
        )
    return Finding(
        rule="judge_position",
        severity="warning",
        confidence="certain",
        verdict=f"the judge prefers the answer that is shown {side}",
        evidence=evidence,
        next_action="nothing is wrong in the preferences: both orders were asked. Each disagreement costs a tie",
    )


def _length(record: Mapping[str, Any]) -> Finding | None:
    length = record["anchor"] and record["anchor"]["length"]
    if not length or not length["found"]:
        return None
    side = "longer" if length["bias"]["value"] > 0 else "shorter"
    return Finding(
        rule="judge_length",
        severity="warning",
        confidence="certain",
        verdict=f"the judge prefers the {side} answer more often than people do",
        evidence=(Evidence(metric="longer wins, judge minus people", value=length["bias"]["value"], expected="0"),),
        next_action="name length in the rubric, or compare policies at equal length (assent eval)",
    )
