"""The KL grows without an end in sight and nothing holds it: over-optimisation is a matter of time."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times, to
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
    weight = case.option("kl_coef", 0.0)
    held = f": kl_coef {weight:g} does not hold it" if weight else ": no penalty holds it"
    return Finding(
        severity="warning",
        verdict=f"the KL to the reference is at {last:.3g} nats and still rises, by {rise.value:.2g} a step"
        + (held if "kl_coef" in case.config else ""),  # another trainer's log may not tell it
        evidence=(Evidence(metric=KL, steps=half.span, value=last, expected="a plateau"),),
        cause="the penalty is weaker than what the reward pays",
        next_action=("raise --kl-coef fourfold" if weight else "give --kl-coef 0.05")
        + ", or a target (--kl-target 6); and measure with something besides the reward (a gold reward, a judge)",
        fix={"kl_coef": times(4.0) if weight else to(0.05)},
    )


RULE = Rule(
    name="kl_unbounded",
    title="the KL rises without a plateau",
    metrics=(KL,),
    least=12,
    stages=SAMPLED,
    check=check,
    causes=("kl_coef too low or 0",),
    source="failures P6",
)

FIRES = example({KL: [1.5 * i for i in range(20)]}, stage="ppo", kl_coef=0.0)
QUIET = example({KL: [min(12.0, 2.0 * i) + 0.1 * (i % 2) for i in range(20)]}, stage="ppo", kl_coef=0.05)
