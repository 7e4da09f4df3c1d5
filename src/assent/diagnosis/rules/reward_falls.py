"""The reward that is trained on goes down, steadily and from the start: the policy is pushed the wrong way."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.rule import SAMPLED, NotChecked, Rule
from assent.diagnosis.rules import kl_explodes, reward_mean_removed
from assent.statistics.small import ends, fmean, shift

SCORE, SPREAD = "objective/rlhf_reward or objective/scores", "objective/scores_std"
LEAST = 0.25
"""Smallest fall that counts, in spreads of the scores."""


def check(case: Case) -> Finding | None:
    for other in (kl_explodes, reward_mean_removed):
        if other.RULE.finds(case):
            raise NotChecked(f"{other.RULE.name} has found why")
    scores = case[SCORE]
    fall = shift(scores.values)
    spread = case.find(SPREAD)
    least = LEAST * fmean(ends(spread.values)[0]) if spread is not None else 0.0
    if fall.high >= 0 or -fall.value < least:
        return None
    middle = scores.values[len(scores) // 3 : 2 * len(scores) // 3]
    first, last = (fmean(part) for part in ends(scores.values))
    if not last < fmean(middle) < first:
        return None  # it rose before it fell: another rule's case
    return Finding(
        severity="fault",
        verdict=f"the reward falls while it is trained on: by {-fall.value:.2g}, steadily from the start",
        evidence=(Evidence(metric=case.named(SCORE), steps=scores.span, value=last, expected=f"at least {first:.3g}"),),
        cause="the objective has the wrong sign, or clips without taking the minimum; or the learning rate is so high "
        "that every update spoils the policy",
        next_action="lower the learning rate tenfold. If the reward still falls, check the sign of the advantage on "
        "one batch: an update must make answers with a positive one more likely",
        fix={"learning_rate": times(0.1)},
    )


RULE = Rule(
    name="reward_falls",
    title="the reward falls while it is trained on",
    metrics=(SCORE,),
    least=10,
    stages=SAMPLED,
    check=check,
    causes=("sign of the objective", "clip without min", "learning rate"),
    source="failures P16",
)

FIRES = example({"objective/scores": [1.0 - 0.1 * i + 0.03 * (i % 2) for i in range(16)], SPREAD: [0.5] * 16},
                stage="ppo")  # fmt: skip
QUIET = example({"objective/scores": [0.1 * (i % 3) for i in range(16)], SPREAD: [0.5] * 16}, stage="ppo")
QUIET_ALSO = (
    example({"objective/rlhf_reward": [1.0 - 0.1 * i for i in range(16)], "objective/scores": [1e-8] * 16,
             SPREAD: [1.0] * 16}, stage="ppo"),
)  # fmt: skip
"""Rewards without their mean: what falls is the penalty, and reward_mean_removed says why."""
