"""The KL grows without an end in sight and nothing holds it: over-optimisation is a matter of time."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.penalty import LOGGED, option_of, stronger, weight_of
from assent.diagnosis.rule import SAMPLED, NotChecked, Rule
from assent.diagnosis.rules import kl_explodes, reward_hacked
from assent.statistics.small import SURE, ends, fmean, slope

KL = "objective/kl"
FAR = 10.0
"""Nats a completion from which a rising KL is worth a word."""


def check(case: Case) -> Finding | None:
    for other in (reward_hacked, kl_explodes):
        if other.RULE.finds(case):
            raise NotChecked(f"{other.RULE.name} has found the same")
    kl = case[KL]
    half = kl.tail(len(kl) // 2)
    rise = slope(half.steps, half.values, confidence=SURE)
    last = fmean(ends(kl.values)[1])
    ahead = rise.low * (half.steps[-1] - half.steps[0])
    if last < FAR or ahead < 0.2 * last:
        return None
    weight = weight_of(case)
    held = f": {option_of(case)} {weight:g} does not hold it" if weight else ": no penalty holds it"
    what_to_do, fix = stronger(case, factor=4.0, start=0.05)
    target = "" if case.stage == "online-dpo" else ", or give a target (--kl-target 6)"
    return Finding(
        severity="warning",
        verdict=f"the KL to the reference is at {last:.3g} nats and still rises, by {rise.value:.2g} a step"
        + ("" if weight is None else held),
        evidence=(Evidence(metric=KL, steps=half.span, value=last, expected="a plateau"),),
        cause="there is no penalty"
        if weight == 0
        else "the penalty is weaker than what the reward pays" + (", or there is none" if weight is None else ""),
        next_action=f"{what_to_do}{target}; and measure with something besides the reward (a gold reward, a judge)",
        fix=fix,
    )


RULE = Rule(
    name="kl_unbounded",
    title="the KL rises without a plateau",
    metrics=(KL,),
    also=(LOGGED,),
    least=12,
    stages=SAMPLED,
    check=check,
    causes=("kl_coef too low or 0",),
    source="failures P6",
)

FIRES = example({KL: [1.5 * i for i in range(20)]}, stage="ppo", kl_coef=0.0)
QUIET = example({KL: [min(12.0, 2.0 * i) + 0.1 * (i % 2) for i in range(20)]}, stage="ppo", kl_coef=0.05)
