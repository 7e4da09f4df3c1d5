"""After many rounds the policy is where its reference is, and the reward has not moved."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.rule import SAMPLED, NotChecked, Rule
from assent.diagnosis.rules import kl_always_zero, zero_advantage
from assent.statistics.small import ends, fmean, shift

KL, SCORE, RATE = "objective/kl_k3 or objective/kl_k2 or objective/kl", "objective/scores", "learning_rate"
NEAR = 0.05
"""Nats a completion."""
ROUNDS = 16
STRONG = 0.5
"""A kl_coef from which on the penalty may be what holds the policy."""


def check(case: Case) -> Finding | None:
    kl, scores = case[KL], case[SCORE]
    rates = case.find(RATE)
    if rates is not None and not any(rates.values):
        return None  # learning_rate_zero
    if zero_advantage.RULE.missing(case) is None and zero_advantage.check(case) is not None:
        raise NotChecked("zero_advantage has found the cause")
    if kl_always_zero.RULE.missing(case) is None and kl_always_zero.check(case) is not None:
        raise NotChecked("kl_always_zero has found that the reference moves")
    last = fmean(ends(kl.values)[1])
    if abs(last) > NEAR or shift(scores.values).low > 0:
        return None
    weight = case.option("kl_coef", 0.0)
    is_held = weight >= STRONG
    return Finding(
        severity="fault",
        confidence="likely" if is_held else "possible",
        verdict=f"the policy does not move: after {case.steps} rounds its KL to the reference is {last:.2g} nats, and "
        "the reward has not risen",
        evidence=(
            Evidence(metric=case.named(KL), steps=kl.span, value=last, expected=f"above {NEAR:g}"),
            Evidence(metric=SCORE, steps=scores.span, value=shift(scores.values).value, expected="a rise"),
        ),
        cause=f"kl_coef {weight:g} outweighs the reward" if is_held else "the learning rate is too low",
        next_action="lower kl_coef" if is_held else "raise the learning rate threefold",
        fix={"kl_coef": times(0.05)} if is_held else {"learning_rate": times(3.0)},
    )


RULE = Rule(
    name="policy_stays",
    title="the policy stays at its reference",
    metrics=(KL, SCORE),
    also=(kl_always_zero.DISTANCE,),
    least=ROUNDS,
    stages=SAMPLED,
    check=check,
    causes=("kl_coef too high", "learning rate too low", "rewards that do not differ"),
    source="failures P5",
)

_FLAT = [0.1, 0.0, 0.2, 0.1, -0.1] * 4
FIRES = example({"objective/kl_k3": [0.002] * 20, SCORE: _FLAT}, stage="ppo", kl_coef=10.0)
QUIET = example({"objective/kl_k3": [0.05 * i for i in range(20)], SCORE: _FLAT}, stage="ppo", kl_coef=0.05)
