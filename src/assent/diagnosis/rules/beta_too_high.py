"""The margin has grown large although the policy has hardly left its reference: beta does it, not learning."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import PAIRS, NotChecked, Rule
from assent.statistics.small import ends, fmean

MARGIN = "rewards/margins"
STEPS = 20
NEAR = 2.5
"""Nats between the log-ratios of chosen and rejected within which no sampled answer changes noticeably."""
USUAL = 0.1
HIGH = 1.0
"""A beta that may be called high."""


def check(case: Case) -> Finding | None:
    beta = case.objective.beta
    if beta is None:
        raise NotChecked("beta is not known (--settings)")
    if case.objective.needs_reference is False:
        raise NotChecked("the loss has no reference to stay at")
    margin = fmean(ends(case[MARGIN].values)[1])
    nats = margin / beta
    if beta < HIGH or not 0 < nats < NEAR:
        return None
    return Finding(
        severity="fault",
        verdict=f"beta {beta:g} is too high: after {case.steps} steps the policy has moved by {nats:.2g} nats a pair",
        evidence=(Evidence(metric=MARGIN, steps=case[MARGIN].span, value=margin, expected=f"above {NEAR * beta:g}"),),
        cause="with a high beta a tiny change satisfies the loss, so that the policy stays at its reference",
        next_action=f"lower beta to {USUAL:g}; expect a smaller margin and a larger change",
        fix={"beta": to(USUAL)},
    )


RULE = Rule(
    name="beta_too_high",
    title="beta is too high: the policy stays at its reference",
    metrics=(MARGIN,),
    least=STEPS,
    stages=PAIRS,
    check=check,
    causes=("beta above 1",),
    source="failures D7",
)

FIRES = example({MARGIN: [0.1 * i for i in range(24)]}, stage="dpo", loss_type="sigmoid", beta=5.0)
QUIET = example({MARGIN: [0.1 * i for i in range(24)]}, stage="dpo", loss_type="sigmoid", beta=0.3)
