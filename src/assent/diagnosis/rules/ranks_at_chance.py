"""The reward model ranks held-out pairs no better than a coin, after enough steps to have learned."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.rule import REWARD, NotChecked, Rule
from assent.statistics.small import ends, fmean, wilson

TRAIN, HELD_OUT = "accuracy", "eval_accuracy"
STEPS = 20
PAIRS = 100
"""Comparisons below which a coin cannot be told from a weak model."""
CHANCE = 0.55


def check(case: Case) -> Finding | None:
    train = case[TRAIN]
    held_out, high = case.find(HELD_OUT), case.find(f"{HELD_OUT}_high")
    if held_out is not None and high is not None:
        name, value, lowest = HELD_OUT, held_out.last, case[f"{HELD_OUT}_low"].last
        if held_out.last - case[f"{HELD_OUT}_low"].last > 0.2:
            raise NotChecked("too few held-out comparisons to tell chance from a weak model")
    else:
        last = ends(train.values)[1]
        count = len(last) * float(case.option("batch_size", 0))
        if count < PAIRS:
            raise NotChecked(f"too few comparisons: {count:.0f} of {PAIRS} in the last quarter (batch_size)")
        name, value, lowest = TRAIN, fmean(last), wilson(fmean(last) * count, count, confidence=0.99).low
    if lowest > 0.5 or value > CHANCE + 0.03:
        return None
    learns = fmean(ends(train.values)[1]) > 0.65
    return Finding(
        severity="fault",
        verdict=f"the reward model is right on {value:.0%} of the pairs, as a coin would be"
        + (", although it learns the training pairs" if learns else ""),
        evidence=(
            Evidence(metric=name, steps=case[name].span, value=value, expected=f"above {CHANCE:g}"),
            Evidence(metric=TRAIN, steps=train.span, value=fmean(ends(train.values)[1])),
        ),
        cause="the labels are random, or do not depend on what the model reads"
        if learns
        else "the learning rate is too low, or the labels are random",
        next_action="let two people label fifty pairs again: where they do not agree, no model can"
        if learns
        else "raise the learning rate tenfold; if the training accuracy stays at one half, label fifty pairs again",
        fix={} if learns else {"learning_rate": times(10.0)},
    )


RULE = Rule(
    name="ranks_at_chance",
    title="the reward model is at chance",
    metrics=(TRAIN,),
    least=STEPS,
    stages=REWARD,
    check=check,
    causes=("random labels", "learning rate too low", "columns that are equal after the cut"),
    source="failures R2",
)

FIRES = example({TRAIN: [0.5, 0.55, 0.45, 0.5] * 8}, stage="reward", batch_size=32, learning_rate=1e-6)
QUIET = example({TRAIN: [0.5, 0.55, 0.6, 0.6, *[0.68, 0.72] * 14]}, stage="reward", batch_size=32)
