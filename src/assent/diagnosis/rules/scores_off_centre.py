"""Scores lie far from 0, or move away from it: pairs fix differences only, and the level drifts."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import REWARD, Rule
from assent.statistics.small import ends, fmean, shift

MEAN, MARGIN = "mean_reward", "margin"
FAR = 5.0
"""Scores beyond this, and beyond five margins, are off."""


def check(case: Case) -> Finding | None:
    means, margins = case[MEAN], case[MARGIN]
    first, last = (fmean(part) for part in ends(means.values))
    margin = abs(fmean(ends(margins.values)[1]))
    if abs(last) < FAR or abs(last) < 5 * margin:
        return None
    moved = shift(means.values)
    diverges = moved.excludes_zero and abs(last) > abs(first) + 2.0
    weight, is_told = case.option("center_rewards_coefficient", 0.0), case.tells("center_rewards_coefficient")
    is_wrong, may_be = diverges and weight > 0, diverges and not is_told
    mend = "mend the sign: coefficient * (sum of a pair's scores)^2 is added to the loss"
    centre = "center the scores (--center-rewards-coefficient 0.01), or normalise them (--normalize-rewards)"
    return Finding(
        severity="fault" if diverges else "warning",
        verdict=f"the scores {'run away' if diverges else 'lie far'} from 0: their mean is {last:.3g} at a margin of "
        f"{margin:.2g}",
        evidence=(
            Evidence(metric=MEAN, steps=means.span, value=last, expected=f"within {max(FAR, 5 * margin):.2g} of 0"),
            Evidence(metric=MARGIN, steps=margins.span, value=margin),
        ),
        cause="the centring term has the wrong sign: it must be added to the loss, not subtracted"
        if is_wrong
        else "comparisons fix differences of scores and not their level"
        + ("; or a centring term, which the log does not tell, has the wrong sign" if may_be else ""),
        next_action=mend if is_wrong else centre + (f". If they are centred already, {mend}" if may_be else ""),
        fix={} if is_wrong or may_be else {"center_rewards_coefficient": to(0.01)},
    )


RULE = Rule(
    name="scores_off_centre",
    title="scores lie far from 0",
    metrics=(MEAN, MARGIN),
    least=6,
    stages=REWARD,
    check=check,
    causes=("no centring", "a centring term of the wrong sign"),
    source="failures R5 and R10; arXiv:2312.09244",
)

FIRES = example({MEAN: [2.0 * i for i in range(16)], MARGIN: [0.1 * i for i in range(16)]}, stage="reward")
QUIET = example({MEAN: [0.3 * (-1) ** i for i in range(16)], MARGIN: [0.1 * i for i in range(16)]}, stage="reward")
