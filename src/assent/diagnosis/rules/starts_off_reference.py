"""Implicit rewards are not 0 where training begins: the policy does not start at its reference."""

from __future__ import annotations

from statistics import median

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.objective import has_no_reference
from assent.diagnosis.rule import PAIRS, THUMBS, Rule

CHOSEN, REJECTED = "rewards/chosen", "rewards/rejected"
LEAST = 0.1
"""Smallest implicit reward that counts: some rounding of bfloat16 is less."""
TIMES = 8.0
"""How much farther the first value must be from 0 than the values move from line to line."""


def check(case: Case) -> Finding | None:
    if case.objective.needs_reference is False or has_no_reference(case.series):
        return None
    chosen, rejected = case[CHOSEN], case[REJECTED]
    first = max(abs(chosen.first), abs(rejected.first))
    moves = [
        abs(after - before)
        for series in (chosen, rejected)
        for before, after in zip(series.values, series.values[1:], strict=False)
    ]
    usual = median(moves)
    # of lines that average over steps, the first one holds the first steps' learning too
    if first < LEAST or first < TIMES * usual:
        return None
    stated = case.option("reference")
    both_up = chosen.first > 0 and rejected.first > 0
    return Finding(
        severity="info" if stated else "fault",
        verdict="the policy does not start at its reference: implicit rewards are "
        f"{chosen.first:.3g} and {rejected.first:.3g} at the first logged step",
        evidence=(
            Evidence(metric=CHOSEN, steps=(chosen.steps[0],) * 2, value=chosen.first, expected="about 0"),
            Evidence(metric=REJECTED, steps=(rejected.steps[0],) * 2, value=rejected.first, expected="about 0"),
        ),
        cause="--reference names another model than training starts from, as it was asked to"
        if stated
        else "the reference is the base model below the SFT adapter, as when DPO continues an adapter"
        if both_up
        else "the reference is another checkpoint, is quantised otherwise, or dropout is on",
        next_action="let the reference be the model that training starts from: merge the SFT adapter first (assent "
        "merge), and put a new adapter on top",
    )


RULE = Rule(
    name="starts_off_reference",
    title="the policy does not start at its reference",
    metrics=(CHOSEN, REJECTED),
    least=4,
    stages=PAIRS | THUMBS,
    check=check,
    causes=("reference is the base model under an SFT adapter", "wrong checkpoint", "quantisation", "dropout"),
    source="people's threads: loss 0 at step 5 of DPO upon an SFT adapter (failures D4)",
)

FIRES = example({CHOSEN: [3.0, 3.1, 3.05, 3.2, 3.15], REJECTED: [2.4, 2.35, 2.4, 2.3, 2.3]}, stage="dpo")
QUIET = example({CHOSEN: [0.0, 0.1, 0.3, 0.5, 0.6], REJECTED: [0.0, -0.1, -0.3, -0.4, -0.6]}, stage="dpo")
