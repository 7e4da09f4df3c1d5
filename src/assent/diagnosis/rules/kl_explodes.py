"""The policy runs away from its reference and gets worse by its own reward too: the updates broke it.

A few nats a completion are no explosion. What tells one is a distance far above where the run was, and a fallen reward.
"""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.rule import SAMPLED, Rule
from assent.statistics.small import ends, fmean, noise, smoothed

KL, SCORE, LENGTH = "objective/kl", "objective/scores", "rollout/completion_length"
FAR = 15.0
"""Nats a completion; 6 is a usual target, and 17.5 was reported of a run that broke."""
PER_TOKEN = 3.0
"""Nats a token in the last quarter: the policy writes what the reference gives one chance in twenty, token after token.
Healthy tiny runs stay below 1."""


def check(case: Case) -> Finding | None:
    kl, scores = case[KL], case[SCORE]
    last = fmean(ends(kl.values)[1])
    levels = smoothed(scores.values, 5)
    highest = max(range(len(levels)), key=levels.__getitem__)
    final = fmean(ends(scores.values)[1])
    fallen = levels[highest] - final
    # a peak in the last quarter is none: the reward still rises
    is_past = highest < len(levels) - len(ends(scores.values)[1])
    broke = max(last, *smoothed(kl.values, 3)) >= FAR and is_past and fallen >= max(4 * noise(scores.values), 1e-9)
    # a break in the first rounds leaves no peak behind: so far away, a policy should have gained something
    gained_nothing = last >= FAR and final <= scores.first
    length = case.find(LENGTH)
    per_token = 0.0 if length is None else last / max(1.0, fmean(ends(length.values)[1]))
    if not (broke or gained_nothing or per_token > PER_TOKEN):
        return None
    what = f"its reward fell by {fallen:.2g} since step {scores.steps[highest]}"
    if not broke:
        what = (
            "its reward is no higher than at the start" if gained_nothing else f"{per_token:.2g} nats a token at last"
        )
    return Finding(
        severity="fault",
        verdict=f"the policy broke: its KL to the reference reached {max(kl.values):.3g} nats, and {what}",
        evidence=(
            Evidence(metric=KL, steps=kl.span, value=max(kl.values), expected=f"below {FAR:g}"),
            Evidence(metric=SCORE, steps=(scores.steps[highest], scores.steps[-1]), value=final,
                     expected=f"about {levels[highest]:.3g}, its peak"),
        ),
        cause="the learning rate is too high for as many updates a round",
        next_action=(f"go back to a checkpoint before step {scores.steps[highest]}" if broke else "start again")
        + ", with a tenth of the learning rate",
        fix={"learning_rate": times(0.1)},
    )  # fmt: skip


RULE = Rule(
    name="kl_explodes",
    title="the policy breaks away from its reference",
    metrics=(KL, SCORE),
    also=(LENGTH,),
    least=8,
    stages=SAMPLED,
    check=check,
    causes=("learning rate", "too many epochs a round", "Adam's epsilon"),
    source="failures P3",
)

FIRES = example(
    {
        KL: [0.1, 1.0, 5.0, 20.0, 40.0, 60.0, 80.0, 90.0, 95.0, 99.0],
        SCORE: [0.0, 0.2, 0.4, 0.3, -0.5, -1.0, -1.1, -1.2, -1.2, -1.3],
    },
    stage="ppo",
    learning_rate=1e-3,
)
QUIET = example({KL: [0.5 * i for i in range(10)], SCORE: [0.1 * i for i in range(10)]}, stage="ppo")  # fmt: skip
QUIET_ALSO = (example({KL: [2.0 * i for i in range(24)], SCORE: [0.1 * i for i in range(24)]}, stage="ppo"),)
"""Far away, and the reward still rises: its last quarter is on average below its last value."""
