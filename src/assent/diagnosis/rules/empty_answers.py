"""The policy answers with nothing: every completion is its end token alone, round after round, or nearly every one.

Where it is every one, the policy samples nothing else any more, so no later round can improve it. Causes: a reward that
prefers short answers, a penalty for unfinished answers that outweighs the reward, or a KL penalty that is off.
"""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.penalty import LOGGED, stronger
from assent.diagnosis.rule import SAMPLED, Rule
from assent.statistics.small import fmean

ROUNDS = 5
NEARLY = 1.25
"""Tokens a completion: three of four are empty, or more. Healthy tiny runs, whose answers are short: 3.4 and more."""
LENGTH, ENDED = "rollout/completion_length", "rollout/eos_rate"


def check(case: Case) -> Finding | None:
    lengths, ended = case[LENGTH].tail(ROUNDS), case[ENDED].tail(ROUNDS)
    length = fmean(lengths.values)
    if length > NEARLY:
        return None
    what_to_do, fix = stronger(case, factor=4.0, start=0.05)
    is_all = all(value == 1.0 for value in (*lengths.values, *ended.values))
    return Finding(
        severity="fatal" if is_all else "fault",
        confidence="certain",
        verdict=f"every answer of the last {ROUNDS} rounds is empty, so the policy cannot learn any more"
        if is_all
        else f"nearly every answer of the last {ROUNDS} rounds is empty",
        evidence=(
            Evidence(metric=LENGTH, steps=lengths.span, value=length, expected=f"more than {NEARLY:g}"),
            Evidence(metric=ENDED, steps=ended.span, value=fmean(ended.values)),
        ),
        cause="the reward prefers short answers, or the KL penalty is too weak to keep the policy from them",
        next_action="start again with a reward that does not prefer empty answers; otherwise lower --learning-rate to "
        f"a third, and {what_to_do}",
        fix={"learning_rate": times(0.3), **fix},
    )


RULE = Rule(
    name="empty_answers",
    title="every answer, or nearly every one, is empty",
    metrics=(LENGTH, ENDED),
    also=(LOGGED,),
    least=ROUNDS,
    stages=SAMPLED,
    window=ROUNDS,
    check=check,
    causes=("a reward that prefers short answers", "a penalty for unfinished answers", "no KL penalty"),
    source="seen on the sandbox with 1 as missing_eos_penalty and kl_coef 0",
)

FIRES = example(
    {LENGTH: [9.0, 2.0, *[1.0] * ROUNDS], ENDED: [0.8, 1.0, *[1.0] * ROUNDS]}, stage="ppo", learning_rate=1e-3
)
FIRES_ALSO = (
    example({LENGTH: [9.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.5], ENDED: [0.8, *[1.0] * 6]}, stage="ppo", learning_rate=1e-3),
)
"""Nearly every answer: a fault that may still mend itself."""
QUIET = example({LENGTH: [9.0, 4.0, 2.0, 1.5, 1.2, 1.2, 1.25], ENDED: [0.8, *[1.0] * 6]}, stage="ppo")
