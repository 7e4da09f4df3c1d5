"""The reward rises and what it stands for falls: over-optimisation."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.gold import gold_of
from assent.diagnosis.penalty import LOGGED, stronger
from assent.diagnosis.rule import SAMPLED, NotChecked, Rule
from assent.statistics.small import fmean, noise, shift, smoothed

PROXY, KL = "objective/scores", "objective/kl or objective/kl_per_token"
VALUES = 6
ERRORS = 8.0
"""Standard errors that a fall must have: hacked tiny runs have 30 and more, of 40 healthy ones the highest 4.6."""


def check(case: Case) -> Finding | None:
    gold = gold_of(case)
    if gold is None:
        raise NotChecked("nothing but the reward itself was logged: a gold reward, or a judge (win_rate/…)")
    name, series = gold
    if len(series) < VALUES:
        raise NotChecked(f"too few steps: {len(series)} of {VALUES} of {name}")
    levels = smoothed(series.values, 3)
    peak = max(range(len(levels)), key=levels.__getitem__)
    size = max(2, len(levels) // 5)
    last = fmean(series.values[-size:])
    fall = levels[peak] - last
    # a peak is the largest of many noisy values, so that some fall follows it by chance alone
    if fall < ERRORS * noise(series.values) / size**0.5 or peak >= len(levels) - size or fall <= 0:
        return None
    proxy = case[PROXY]
    rising = shift(proxy.values)
    if rising.low <= 0:
        return None
    kl = case.find(KL)
    what_to_do, fix = stronger(case, factor=4.0, start=0.1)
    return Finding(
        severity="fault",
        confidence="likely",
        verdict=f"the reward is over-optimised: it rose by {rising.value:.2g}, while {name} fell by {fall:.2g} "
        f"since step {series.steps[peak]}",
        evidence=(
            Evidence(metric=name, steps=(series.steps[peak], series.steps[-1]), value=last,
                     expected=f"about {levels[peak]:.3g}, its peak"),
            Evidence(metric=PROXY, steps=proxy.span, value=proxy.last),
            *([] if kl is None else [Evidence(metric=case.named(KL), steps=kl.span, value=kl.last)]),
        ),
        cause="the policy has found what the reward model likes and people do not, for its pairs held no such answers",
        next_action=f"keep the checkpoint near step {series.steps[peak]}. A stronger penalty slows this down: "
        f"{what_to_do}. What mends it is a reward that people agree with: label what the policy writes now and train "
        "the reward model on it, or count the disagreement of several (--reward-ensemble mean-std:1)",
        fix=fix,
    )  # fmt: skip


RULE = Rule(
    name="reward_hacked",
    title="reward hacking: the reward rises, the gold falls",
    metrics=(PROXY,),
    also=(LOGGED,),
    least=VALUES,
    stages=SAMPLED,
    check=check,
    causes=("a reward model of too few pairs", "no KL penalty", "too many rounds"),
    source="Gao et al., arXiv:2210.10760 (failures P1)",
)

_GOLD = [0.1, 0.3, 0.5, 0.6, 0.55, 0.4, 0.25, 0.1, -0.1, -0.3]
_UP = [0.2 * i for i in range(10)]
FIRES = example({PROXY: _UP, "gold/total": _GOLD, "objective/kl": [10 * x for x in _UP]}, stage="ppo", kl_coef=0.0)
QUIET = example({PROXY: _UP, "gold/total": [0.05 * i for i in range(10)]}, stage="ppo")
