"""Accuracy has settled well below 1, on the training pairs of the first pass as on held-out ones: the labels disagree.

A model that could still learn would go on rising, and one that overfits would part the two. This is the ceiling that
noise in the labels sets, or a model too small for the task: the log cannot tell which.
"""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import PAIRS, REWARD, Rule
from assent.statistics.small import ends, fmean, shift

TRAIN, HELD_OUT = "accuracy or rewards/accuracies", "eval_accuracy or eval_rewards/accuracies"
CEILING = 0.85
STEPS = 40


def check(case: Case) -> Finding | None:
    train, held_out = case[TRAIN], case[HELD_OUT]
    half = train.tail(len(train) // 2)
    level = fmean(half.values)
    high = case.find(f"{case.named(HELD_OUT)}_high")
    reached = held_out.last if high is None else high.last
    has_settled = abs(shift(half.values).value) < 0.05 and fmean(ends(train.values)[0]) < level + 0.05
    if not has_settled or not 0.55 < level < CEILING or reached > CEILING or abs(level - held_out.last) > 0.07:
        return None
    low = case.option("label_smoothing") or case.config.get("hyperparameters", {}).get("label_smoothing", 0.0)
    return Finding(
        severity="info" if level > 0.7 else "warning",
        confidence="possible",
        verdict=f"accuracy has settled at {level:.0%}, in training as on held-out pairs ({held_out.last:.0%})",
        evidence=(
            Evidence(metric=case.named(TRAIN), steps=half.span, value=level, expected=f"above {CEILING:g}, or rising"),
            Evidence(metric=case.named(HELD_OUT), steps=held_out.span, value=held_out.last),
        ),
        cause=f"about {1 - level:.0%} of the labels contradict the rest (20 to 40% is usual of people's), or the "
        f"model is "
        "too small for the task",
        next_action="label some pairs twice: where people agree no more often than this, smooth the labels; otherwise "
        "take a larger model",
        fix={} if low else {"hyperparameters": to({"label_smoothing": round(min(0.4, 1 - level), 2)})},
    )


RULE = Rule(
    name="labels_disagree",
    title="accuracy settles low: label noise",
    metrics=(TRAIN, HELD_OUT),
    least=1,
    stages=PAIRS | REWARD,
    check=check,
    causes=("noisy labels", "too small a model"),
    source="noise costs up to 30 points of win rate: arXiv:2404.09824 (failures R3, D15)",
)

_SETTLED = [0.5, 0.55, 0.6, 0.62, *[0.66, 0.64, 0.65, 0.66] * 10]
FIRES = example({"accuracy": _SETTLED, "eval_accuracy": {44: 0.65}}, stage="reward")
QUIET = example({"accuracy": _SETTLED, "eval_accuracy": {44: 0.9}}, stage="reward")
