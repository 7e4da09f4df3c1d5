"""The policy is far from its reference, and the margin is still small: beta hardly holds it."""

from __future__ import annotations

from dataclasses import replace

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import PAIRS, NotChecked, Rule
from assent.statistics.small import ends, fmean

MARGIN = "rewards/margins"
FAR = 40.0
"""Nats between the log-ratios of chosen and rejected beyond which a policy is far away, at any length."""
SMALL = 1.5
UNFELT = ((0.1, 5.0), (0.02, 1.0))
"""Margins that change a probability by 2.5% and 0.5% at most, after a move of so many nats: beta below 0.02. One nat is
early in a run, so the second holds when it has ended."""
USUAL = 0.1


def check(case: Case) -> Finding | None:
    beta = case.objective.beta
    if not beta:
        raise NotChecked("beta is not known (--settings)")
    if case.objective.needs_reference is False:
        raise NotChecked("the loss has no reference to leave")
    margin = fmean(ends(case[MARGIN].values)[1])
    nats = margin / beta
    known = UNFELT[:1] if case.status == "running" else UNFELT
    least = [unfelt for unfelt, moved in ((SMALL, FAR), *known) if nats >= moved and margin <= unfelt]
    if not least:
        return None
    digits = ".0f" if nats >= 10 else ".2g"
    return Finding(
        severity="fault",
        confidence="likely",
        verdict=f"beta {beta:g} is too low: the policy prefers the chosen completions by {nats:{digits}} nats more "
        f"than the reference, and the margin is only {margin:.2g}",
        evidence=(Evidence(metric=MARGIN, steps=case[MARGIN].span, value=margin, expected=f"above {max(least):g}"),),
        cause="with a low beta the loss asks for log-ratios far beyond what language survives",
        next_action=f"raise beta to {USUAL:g}",
        fix={"beta": to(USUAL)},
    )


RULE = Rule(
    name="beta_too_low",
    title="beta is too low: far from the reference, small margin",
    metrics=(MARGIN,),
    least=12,
    stages=PAIRS,
    check=check,
    causes=("beta below 0.01",),
    source="failures D7; choosing an objective, failures §1",
)

FIRES = example({MARGIN: [0.02 * i for i in range(20)]}, stage="dpo", loss_type="sigmoid", beta=0.001)
QUIET = example({MARGIN: [0.02 * i for i in range(20)]}, stage="dpo", loss_type="sigmoid", beta=0.1)
FIRES_ALSO = (example({MARGIN: [0.004 * i / 20 for i in range(20)]}, stage="dpo", loss_type="sigmoid", beta=0.001),)
_EARLY = example({MARGIN: [0.004 * i / 20 for i in range(20)]}, stage="dpo", loss_type="sigmoid", beta=0.001)
QUIET_ALSO = (
    example({MARGIN: [1e-5 * i for i in range(20)]}, stage="dpo", loss_type="sigmoid", beta=0.001),
    replace(_EARLY, status="running"),
)
"""A margin of 0.004 after four nats: beta hides it, if the run has ended. One of 0.0002 after a fifth of a nat: the
rate may be too low."""
