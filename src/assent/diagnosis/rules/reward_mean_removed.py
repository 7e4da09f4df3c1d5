"""The mean reward is exactly 0 in every batch: whitening has taken away what says whether answers are good."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import CRITIC, Rule

SCORE, SPREAD = "objective/scores", "objective/scores_std"
SHARE = 1e-4
"""Of the spread."""


def check(case: Case) -> Finding | None:
    at = dict(zip(case[SPREAD].steps, case[SPREAD].values, strict=True))
    shares = [
        abs(value) / at[step]
        for step, value in zip(case[SCORE].steps, case[SCORE].values, strict=True)
        if at.get(step, 0.0) > 1e-6
    ]
    if len(shares) < 5 or max(shares) > SHARE:
        return None
    return Finding(
        severity="fault",
        confidence="certain",
        verdict="the mean reward is 0 in every batch: rewards are whitened with their mean",
        evidence=(Evidence(metric=SCORE, steps=case[SCORE].span, value=max(map(abs, case[SCORE].values)),
                           expected="a level that changes"),),
        cause="a shifted mean makes a batch of good answers look like one of bad answers, and the KL penalty changes "
        "sign",
        next_action="do not subtract the rewards' mean: divide by their standard deviation alone (--scale-scores), and "
        "whiten advantages instead",
        fix={"scale_scores": to(True)},
    )  # fmt: skip


RULE = Rule(
    name="reward_mean_removed",
    title="whitening takes away the rewards' mean",
    metrics=(SCORE, SPREAD),
    least=5,
    stages=CRITIC,
    check=check,
    causes=("reward whitening with mean shift",),
    source="The N implementation details of RLHF with PPO (failures P12)",
)

FIRES = example({SCORE: [1e-8, -2e-8, 0.0, 1e-8, 0.0, 1e-8], SPREAD: [1.0] * 6}, stage="ppo")
QUIET = example({SCORE: [0.1, -0.2, 0.0, 0.1, 0.0, 0.1], SPREAD: [1.0] * 6}, stage="ppo")
