"""The critic explains none of the returns' variance: a constant would do as well."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Change, Evidence, Finding, times, to
from assent.diagnosis.rule import CRITIC, Rule
from assent.statistics.small import SURE, ends, fmean, mean_interval, median

EXPLAINED, ERROR, SPREAD = "val/explained_variance", "critic/val/error", "objective/scores_std"
ROUNDS = 16
AT_MOST = 0.005
"""Explained variance up to which a critic is asked further. Slow but healthy ones are met here, too, in 20 rounds."""
WORSE = -0.01
STILL = 1e-4
"""A critic that does not learn explains a constant's 0, up to rounding; one that learns is never so exact."""
BEYOND = 1.25
"""Its error on what it trains on, over the scores' variance, which a constant would leave. Slow critics: up to 1."""


def check(case: Case) -> Finding | None:
    explained = case[EXPLAINED]
    last = ends(explained.values)[1]
    if median(last) > AT_MOST or sum(value > 0.1 for value in last) > len(last) / 4:
        return None
    half = explained.values[len(explained) // 2 :]
    stands_still = max(abs(value) for value in half) < STILL
    if not stands_still and mean_interval(half, confidence=SURE).high >= WORSE and not _is_beyond(case):
        return None
    return Finding(
        severity="fault",
        verdict=f"the critic is of no use: after {case.steps} rounds it predicts returns no better than their mean"
        + (", and it has not changed" if stands_still else ""),
        evidence=(
            Evidence(metric=EXPLAINED, steps=explained.tail(len(last)).span, value=median(last),
                     expected="above 0.3"),
            *([Evidence(metric=ERROR, steps=case[ERROR].span, value=_error(case, ERROR),
                        expected="at most the scores' variance")] if ERROR in case.series else []),
        ),
        cause="the critic's learning rate is too low" if stands_still
        else "the critic's learning rate is too high, or its returns do not belong to its states",
        next_action=("raise" if stands_still else "lower") + " --critic-learning-rate; if that is not enough, let the "
        "critic learn alone at first (--critic-warmup-steps), start it from the reward model (--critic), or use a "
        "method without one (grpo, rloo)",
        fix={"critic_learning_rate": _higher(case) if stands_still else times(0.3)},
    )  # fmt: skip


def _higher(case: Case) -> Change:
    """Ten times the critic's rate, and not below ten times the policy's, where both are known."""
    policy, critic = case.option("learning_rate", 0.0), case.option("critic_learning_rate", 0.0)
    is_lower = critic < policy and case.tells("critic_learning_rate")
    return to(float(f"{10 * policy:.6g}")) if is_lower else times(10.0)


def _is_beyond(case: Case) -> bool:
    """Whether the critic misses its own targets by more than their mean would."""
    if ERROR not in case.series or SPREAD not in case.series or case.option("scale_scores"):
        return False
    spread = case[SPREAD]
    variance = fmean([value * value for value in ends(spread.values)[1]])
    return variance > 0 and _error(case, ERROR) > BEYOND * variance


def _error(case: Case, name: str) -> float:
    return fmean(ends(case[name].values)[1])


RULE = Rule(
    name="critic_useless",
    title="the critic explains nothing",
    metrics=(EXPLAINED,),
    also=(ERROR, SPREAD),
    least=ROUNDS,
    stages=CRITIC,
    check=check,
    causes=("critic's learning rate", "no warm-up", "returns of other states"),
    source="failures P8",
)

FIRES = example({EXPLAINED: [-10.0, -4.0, -2.0, *[-0.3, -0.1] * 8]}, stage="ppo", critic_learning_rate=1e-6)
QUIET = example({EXPLAINED: [-10.0, -4.0, -2.0, *[0.4, 0.6] * 8]}, stage="ppo")
