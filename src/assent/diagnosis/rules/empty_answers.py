"""The policy answers with nothing: every completion is its end token alone, round after round.

Such a policy samples nothing else any more, so no later round can improve it. Causes: a reward that prefers short
answers, a penalty for unfinished answers that outweighs the reward, or a KL penalty that is off.
"""

from __future__ import annotations

from assent.diagnosis.finding import Evidence, Finding, Rule, Series

ROUNDS = 5
LENGTH, ENDED = "rollout/completion_length", "rollout/eos_rate"


def check(series: Series) -> Finding | None:
    lengths, ended = series[LENGTH][-ROUNDS:], series[ENDED][-ROUNDS:]
    is_empty = all(value == 1.0 for _, value in (*lengths, *ended))
    if len(lengths) < ROUNDS or not is_empty:
        return None
    steps = (lengths[0][0], lengths[-1][0])
    return Finding(
        rule="empty_answers",
        severity="fault",
        verdict=f"every answer of the last {ROUNDS} rounds is empty, so the policy cannot learn any more",
        evidence=(
            Evidence(metric=LENGTH, steps=steps, value=1.0, threshold=1.0),
            Evidence(metric=ENDED, steps=steps, value=1.0, threshold=1.0),
        ),
        next_action="start again with a reward that does not prefer empty answers, a larger --kl-coef, or a lower "
        "--learning-rate",
    )


RULE = Rule(name="empty_answers", metrics=(LENGTH, ENDED), window=ROUNDS, check=check)

FIRES = {LENGTH: [9.0, 2.0, *[1.0] * ROUNDS], ENDED: [0.8, 1.0, *[1.0] * ROUNDS]}
QUIET = {LENGTH: [9.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.25], ENDED: [0.8, *[1.0] * 6]}
"""Values of successive rounds: on the first the rule fires, on the second it stays quiet."""
