"""The critic explains none of the returns' variance: a constant would do as well."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times, to
from assent.diagnosis.rule import CRITIC, Rule
from assent.statistics.small import ends, median

EXPLAINED = "val/explained_variance"
ROUNDS = 16
AT_MOST = 0.005
"""A critic that does not learn explains a constant's 0, up to rounding."""


def check(case: Case) -> Finding | None:
    explained = case[EXPLAINED]
    last = ends(explained.values)[1]
    if median(last) > AT_MOST or sum(value > 0.1 for value in last) > len(last) / 4:
        return None
    return Finding(
        severity="fault",
        verdict=f"the critic is of no use: after {case.steps} rounds it predicts returns no better than their mean",
        evidence=(Evidence(metric=EXPLAINED, steps=explained.tail(len(last)).span, value=median(last),
                           expected="above 0.3"),),
        cause="the value's learning rate is too low or too high, or its returns do not belong to its states",
        next_action="let the critic learn alone at first (--critic-warmup-steps), start it from the reward model, or "
        "use "
        "a method without one (grpo, rloo)",
        fix={"critic_warmup_steps": to(10), "critic_learning_rate": times(3.0)},
    )  # fmt: skip


RULE = Rule(
    name="critic_useless",
    title="the critic explains nothing",
    metrics=(EXPLAINED,),
    least=ROUNDS,
    stages=CRITIC,
    check=check,
    causes=("critic's learning rate", "no warm-up", "returns of other states"),
    source="failures P8",
)

FIRES = example({EXPLAINED: [-10.0, -4.0, -2.0, *[-0.3, -0.1] * 8]}, stage="ppo", critic_learning_rate=1e-6)
QUIET = example({EXPLAINED: [-10.0, -4.0, -2.0, *[0.4, 0.6] * 8]}, stage="ppo")
