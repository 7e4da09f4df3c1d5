"""Answers grow and the reward grows with them: the reward may like length."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.gold import gold_of
from assent.diagnosis.penalty import LOGGED, stronger
from assent.diagnosis.rule import SAMPLED, Rule
from assent.statistics.small import correlation, ends, fmean, shift

LENGTH, SCORE = "rollout/completion_length", "objective/scores"
GROWTH = 1.4
"""Growth from the first quarter to the last."""
TOGETHER = 0.6


def check(case: Case) -> Finding | None:
    lengths, scores = case[LENGTH], case[SCORE]
    first, last = (fmean(part) for part in ends(lengths.values))
    if last < GROWTH * first or shift(lengths.values).low <= 0 or shift(scores.values).low <= 0:
        return None
    at = dict(zip(scores.steps, scores.values, strict=True))
    both = [(length, at[step]) for step, length in zip(lengths.steps, lengths.values, strict=True) if step in at]
    together = correlation([length for length, _ in both], [score for _, score in both])
    gold = gold_of(case)
    if together < TOGETHER or (gold is not None and shift(gold[1].values).low > 0):
        return None
    what_to_do, fix = stronger(case, factor=3.0, start=0.05)
    return Finding(
        severity="fault" if gold is not None else "warning",
        confidence="likely" if gold is not None else "possible",
        verdict=f"answers grew from {first:.0f} to {last:.0f} tokens, and the reward with them"
        + ("" if gold is None else f", while {gold[0]} did not rise"),
        evidence=(
            Evidence(metric=LENGTH, steps=lengths.span, value=last, expected=f"about {first:.0f}, as at the start"),
            Evidence(metric=SCORE, steps=scores.span, value=scores.last),
            *([] if gold is None else [Evidence(metric=gold[0], steps=gold[1].span, value=gold[1].last)]),
        ),
        cause="the reward prefers long answers (70 to 90% of the gain was length in published cases)",
        next_action="read a few answers: where the task needs longer ones, this is no fault. Otherwise balance the "
        "reward model's pairs by length, or add a part to the reward that costs length (Assent's: {rule: length}). A "
        f"stronger penalty only slows it down: {what_to_do}",
        fix=fix,
    )


RULE = Rule(
    name="longer_answers",
    title="answers and reward grow together",
    metrics=(LENGTH, SCORE),
    also=(LOGGED,),
    least=12,
    stages=SAMPLED,
    check=check,
    causes=("length bias of the reward", "the task rewards longer reasoning"),
    source="Singhal et al., arXiv:2310.03716 (failures P2)",
)

_UP = [20.0 + 2 * i + (i % 3) for i in range(20)]
FIRES = example({LENGTH: _UP, SCORE: [0.05 * value for value in _UP]}, stage="ppo", kl_coef=0.05)
QUIET = example({LENGTH: [20.0 + (i % 3) for i in range(20)], SCORE: [0.05 * i for i in range(20)]}, stage="ppo")
