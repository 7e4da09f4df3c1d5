"""Implicit rewards are not 0 where training begins: the policy does not start at its reference."""

from __future__ import annotations

from statistics import median

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.objective import AWAY, has_no_reference, may_lack_reference
from assent.diagnosis.rule import PAIRS, THUMBS, NotChecked, Rule

CHOSEN, REJECTED = "rewards/chosen", "rewards/rejected"
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
    if first < AWAY or first < TIMES * usual:
        return None
    is_stated = case.objective.how == "configuration" and case.objective.needs_reference is True
    if case.stage != "kto" and not is_stated and may_lack_reference(case.series):
        raise NotChecked("implicit rewards are below 0 throughout: by design in SimPO, ORPO and CPO, another reference "
                         "than the start in DPO; loss_type (--settings) decides")  # fmt: skip
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
        next_action=("" if case.tells("reference") else "unless another reference was meant, ")
        + "let the reference be the model that training starts from: merge the SFT adapter first (assent "
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

_BELOW = {CHOSEN: [-2.4, -2.45, -2.4, -2.5, -2.45], REJECTED: [-3.1, -3.0, -3.1, -3.05, -3.2]}
FIRES = example({CHOSEN: [3.0, 3.1, 3.05, 3.2, 3.15], REJECTED: [2.4, 2.35, 2.4, 2.3, 2.3]}, stage="dpo")
QUIET = example({CHOSEN: [0.0, 0.1, 0.3, 0.5, 0.6], REJECTED: [0.0, -0.1, -0.3, -0.4, -0.6]}, stage="dpo")
FIRES_ALSO = (
    example(_BELOW, stage="dpo", loss_type="sigmoid", beta=0.1),
    example(_BELOW, stage="kto"),
    example({CHOSEN: [-3.0, -3.1, -3.0, -3.1, -3.0], REJECTED: [0.6, 0.5, 0.6, 0.5, 0.6]}, stage="dpo"),
)
QUIET_ALSO = (example(_BELOW, stage="dpo"), example(_BELOW, stage="dpo", loss_type="simpo"))
"""Rewards below 0 are those of a loss without a reference, too: where nothing names the loss, it is not judged."""
