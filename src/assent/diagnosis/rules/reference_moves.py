"""The loss stays at its start while the policy moves: the reference moves with it."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import PAIRS, THUMBS, Rule

REWARD, SUM, MARGIN = "eval_rewards/chosen", "eval_logps/chosen", "rewards/margins"
MOVED = 1e-3
"""Smallest change of the held-out log-probability that counts, as a share of it."""
USUAL = 0.1
"""The beta that is reckoned with where it is not known."""
STILL = 1e-3
"""Implicit rewards below this share of what the log-probability's change would give are none."""


def check(case: Case) -> Finding | None:
    if case.option("reference_sync_steps"):
        return None  # TR-DPO: it follows by design
    sums, rewards = case[SUM], case[REWARD]
    moved = max(sums.values) - min(sums.values)
    beta = case.objective.beta or case.option("beta")
    largest = max(map(abs, rewards.values))
    if moved <= MOVED * abs(sums.first) or largest > STILL * (beta or USUAL) * moved:
        return None
    is_told = case.tells("reference_sync_steps")
    return Finding(
        severity="fatal",
        confidence="certain" if is_told else "likely",
        verdict=f"the reference moves with the policy: held-out log-probabilities changed by {moved:.3g} nats, and "
        "implicit rewards stayed at 0",
        evidence=(
            Evidence(metric=SUM, steps=sums.span, value=sums.last, expected=f"implicit rewards of {beta * moved:.3g}"
                     if beta else "implicit rewards that move with them"),
            Evidence(metric=REWARD, steps=rewards.span, value=rewards.last),
        ),
        cause="reference and policy are the same object, so that every update changes both"
        + ("" if is_told else "; where the reference follows on purpose (TR-DPO), this is no fault"),
        next_action="make the reference a copy of its own (deepcopy), or compute its log-probabilities before training",
    )  # fmt: skip


RULE = Rule(
    name="reference_moves",
    title="the reference moves with the policy",
    metrics=(SUM, REWARD),
    least=2,
    stages=PAIRS | THUMBS,
    check=check,
    causes=("the reference is the policy itself",),
    source="failures D3 and P15",
)

FIRES = example({SUM: {10: -50.0, 20: -44.0}, REWARD: {10: 0.0, 20: 0.0}, MARGIN: [0.0] * 20}, stage="dpo", beta=0.1)
QUIET = example({SUM: {10: -50.0, 20: -44.0}, REWARD: {10: 0.0, 20: 0.6}, MARGIN: [0.0] * 20}, stage="dpo", beta=0.1)
