"""After many rounds the policy is where its reference is, and the reward has not moved."""

from __future__ import annotations

import math

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Change, Evidence, Finding, factor_to, times, to
from assent.diagnosis.penalty import LOGGED, weight_of
from assent.diagnosis.rule import SAMPLED, NotChecked, Rule
from assent.diagnosis.rules import kl_always_zero, penalty_scale, zero_advantage
from assent.statistics.small import ends, fmean, shift

KL, SCORE, RATE = "objective/kl_k3 or objective/kl_k2 or objective/kl", "objective/scores", "learning_rate"
SPREAD = "objective/scores_std"
NEAR, UNEXPLAINED = 0.05, 0.025
"""Nats a completion: where a strong penalty explains it, and where the rate may. A slow but healthy run: 0.03."""
ROUNDS = 16
USUAL, STRONG = 0.05, 0.5
"""A usual kl_coef, and one from which on the penalty may be what holds the policy."""
PAYS = 0.05
"""Nats that a reward of one standard deviation can buy, below which the penalty outweighs it."""
ITS_OWN_UNITS = frozenset({"ppo", "a2c", "rloo"})
"""Methods whose penalty is measured against the reward as it is; GRPO divides rewards by their spread first."""
MOST = 1e4


def check(case: Case) -> Finding | None:
    kl, scores = case[KL], case[SCORE]
    rates = case.find(RATE)
    if rates is not None and not any(rates.values):
        return None  # learning_rate_zero
    if zero_advantage.RULE.finds(case):
        raise NotChecked("zero_advantage has found the cause")
    if kl_always_zero.RULE.finds(case):
        raise NotChecked("kl_always_zero has found that the reference moves")
    last = fmean(ends(kl.values)[1])
    cause, next_action, fix = _why(case, last)
    is_explained = "kl_coef" in fix or "scale_scores" in fix
    if abs(last) > (NEAR if is_explained else UNEXPLAINED) or shift(scores.values).low > 0:
        return None
    scale = penalty_scale.check(case) if penalty_scale.RULE.missing(case) is None else None
    if scale is not None and scale.severity == "fault":
        raise NotChecked("penalty_scale has found the cause")
    return Finding(
        severity="fault",
        confidence="likely" if is_explained else "possible",
        verdict=f"the policy does not move: after {case.steps} rounds its KL to the reference is {last:.2g} nats, and "
        "the reward has not risen",
        evidence=(
            Evidence(metric=case.named(KL), steps=kl.span, value=last, expected=f"above {NEAR:g}"),
            Evidence(metric=SCORE, steps=scores.span, value=shift(scores.values).value, expected="a rise"),
        ),
        cause=cause,
        next_action=next_action,
        fix=fix,
    )


def _why(case: Case, kl: float) -> tuple[str, str, dict[str, Change]]:
    """The cause, what to do, and the change."""
    # what online-dpo weighs with beta is no penalty beside a reward
    weight, spread = 0.0 if case.stage == "online-dpo" else weight_of(case), case.find(SPREAD)
    raised = factor_to(math.sqrt(2 * NEAR), math.sqrt(abs(kl)), least=3.0, most=MOST)
    if weight is None:
        return (
            "the learning rate is too low, or a KL penalty outweighs the reward: the log does not tell its weight",
            f"look up --kl-coef: set it to {USUAL:g} if it is {STRONG:g} or more; otherwise raise the learning rate "
            f"{raised:g} times, as the KL grows with its square",
            {},
        )
    usual = None if spread is None or case.option("scale_scores") else fmean(spread.values)
    if usual and usual < penalty_scale.SMALL and case.stage in ITS_OWN_UNITS and usual < PAYS * weight:
        is_told = case.tells("scale_scores")
        return (
            f"kl_coef {weight:g} outweighs rewards that differ by {usual:.2g} only"
            + ("" if is_told else ", if they are not scaled after they are logged"),
            "divide the scores by their spread (--scale-scores)" + ("" if is_told else ", if they are not already"),
            {"scale_scores": to(True)} if is_told else {},
        )
    if weight >= STRONG:
        return (
            f"kl_coef {weight:g} outweighs the reward",
            f"set --kl-coef {USUAL:g}, which suits rewards that differ by about 1",
            {"kl_coef": to(USUAL)},
        )
    return (
        "the learning rate is too low",
        f"raise the learning rate {raised:g} times: the KL grows with its square",
        {"learning_rate": times(raised)},
    )


RULE = Rule(
    name="policy_stays",
    title="the policy stays at its reference",
    metrics=(KL, SCORE),
    also=(kl_always_zero.DISTANCE, SPREAD, penalty_scale.PENALTY, LOGGED),
    least=ROUNDS,
    stages=SAMPLED,
    check=check,
    causes=("kl_coef too high", "learning rate too low", "rewards that do not differ"),
    source="failures P5",
)

_FLAT = [0.1, 0.0, 0.2, 0.1, -0.1] * 4
FIRES = example({"objective/kl_k3": [0.002] * 20, SCORE: _FLAT}, stage="ppo", kl_coef=10.0)
QUIET = example({"objective/kl_k3": [0.05 * i for i in range(20)], SCORE: _FLAT}, stage="ppo", kl_coef=0.05)
FIRES_ALSO = (
    example({"objective/kl_k3": [0.002] * 20, SCORE: [1e-4 * one for one in _FLAT], SPREAD: [1e-4] * 20}, stage="ppo",
            kl_coef=0.05, scale_scores=False),
    example({"objective/kl_k3": [1e-8] * 20, SCORE: _FLAT, SPREAD: [0.3] * 20}, stage="grpo", kl_coef=0.05),
)  # fmt: skip
"""A tiny reward, which --scale-scores mends; a tiny learning rate."""
QUIET_ALSO = (example({"objective/kl_k3": [0.002 * i for i in range(20)], SCORE: _FLAT}, stage="online-dpo"),)
"""Slow, but on its way: 0.03 nats."""
