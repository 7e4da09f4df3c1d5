"""The first steps throw the policy far away: its chosen completions lose most of their likelihood at once.

A loss of pairs looks at differences, so its value may look well again some steps later, and the margin large. What the
policy was is gone all the same: it has learned which of two answers is better, and not to give either.
"""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.rule import PAIRS, NotChecked, Rule
from assent.diagnosis.rules import beta_too_low, chosen_falls
from assent.statistics.small import fmean

REWARD, SUM = "rewards/chosen", "logps/chosen"
EARLY, WINDOW = 1 / 3, 3
"""Of the run's steps, and values that are looked at together."""
TIMES, NATS = 3.0, 20.0
"""What a chosen completion costs the policy, beside the reference: so many times as much, and so much more. Healthy
tiny runs reach 2.0 times and 9 nats in the end; a model of 7 billion weights that was good, 1.2 times and 50."""


def check(case: Case) -> Finding | None:
    beta = case.objective.beta
    if not beta or case.objective.needs_reference is False:
        raise NotChecked("beta is not known (--settings), or there is no reference")
    if beta_too_low.RULE.finds(case):
        raise NotChecked("beta_too_low has found the cause")
    if _fall_together(case):
        raise NotChecked("chosen_falls has found the cause: chosen and rejected are near-twins")
    rewards, sums = case[REWARD], case[SUM]
    if rewards.steps != sums.steps:
        raise NotChecked(f"{REWARD} and {SUM} were logged at different steps")
    until = EARLY * (case.planned_steps or case.steps)
    for at in range(len(sums) - WINDOW + 1):
        if sums.steps[at + WINDOW - 1] > until:
            return None
        now, lost = (fmean(one.values[at : at + WINDOW]) for one in (sums, rewards))
        before = now - lost / beta  # of the same rows, so that their lengths do not matter
        if before < 0 and now <= TIMES * before and now <= before - NATS:
            return _finding(case, sums.steps[at : at + WINDOW], before=before, now=now)
    return None


def _fall_together(case: Case) -> bool:
    try:
        found = chosen_falls.RULE.ask(case)
    except NotChecked:
        return False
    return found is not None and found.severity != "info"


def _finding(case: Case, steps: tuple[int, ...], *, before: float, now: float) -> Finding:
    return Finding(
        severity="fault",
        verdict=f"the policy is thrown off in its first steps: chosen completions of {before:.3g} nats are at "
        f"{now:.3g} by step {steps[-1]} of {case.planned_steps or case.steps}",
        evidence=(
            Evidence(metric=SUM, steps=(steps[0], steps[-1]), value=now, expected=f"above {TIMES * before:.3g}"),
        ),
        cause="the learning rate is much too high",
        next_action="lower the learning rate to a tenth, and start again from the model as it was",
        fix={"learning_rate": times(0.1)},
    )


RULE = Rule(
    name="likelihood_collapses",
    title="the first steps throw the policy off",
    metrics=(REWARD, SUM),
    least=WINDOW,
    stages=PAIRS,
    check=check,
    causes=("learning rate too high",),
    source="made on purpose: rates 400 times too high (failures D6)",
)

_DOWN = [-0.5 * min(step, 10) + 0.01 * (-1) ** step for step in range(30)]
_BEFORE = [-0.1, -0.2, -0.2, *[-0.3] * 27]
FIRES = example({REWARD: [0.0, -6.0, -5.0, *[-4.0] * 27], SUM: [-10.0, -70.0, -60.0, *[-50.0] * 27]}, stage="dpo",
                loss_type="sigmoid", beta=0.1, learning_rate=0.5)  # fmt: skip
QUIET = example({REWARD: _BEFORE, SUM: [-10.0, *[-12.0] * 29]}, stage="dpo", loss_type="sigmoid", beta=0.1)
QUIET_ALSO = (
    example({REWARD: _BEFORE, SUM: [-10.0, *[-200.0] * 29]}, stage="dpo", loss_type="sigmoid", beta=0.1),
    example({REWARD: _DOWN, "rewards/rejected": [1.04 * value for value in _DOWN],
             SUM: [-10.0 + 10 * value for value in _DOWN]}, stage="dpo", loss_type="sigmoid", beta=0.1),
    example({REWARD: [*_BEFORE[:20], *[-6.0] * 10], SUM: [*[-12.0] * 20, *[-70.0] * 10]}, stage="dpo",
            loss_type="sigmoid", beta=0.1),
)  # fmt: skip
"""Rows that are long; near-twins, which fall together; and a fall that came late: another rule's case."""
