"""Accuracy has settled well below 1, on the training pairs of the first pass as on held-out ones: the labels disagree.

A model that could still learn would go on rising, and one that overfits would part the two. This is the ceiling that
noise in the labels sets, or a model too small for the task: the log cannot tell which, and two thirds are usual of
people's labels. So it is never more than info. A model that has learned nothing tells nothing about its labels.
"""

from __future__ import annotations

from assent.diagnosis.advice import smoothed_labels
from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import PAIRS, REWARD, NotChecked, Rule
from assent.diagnosis.rules import learning_rate_zero, no_gradient, nothing_learned, ranks_at_chance
from assent.statistics.small import ends, fmean, shift

TRAIN, HELD_OUT = "accuracy or rewards/accuracies", "eval_accuracy or eval_rewards/accuracies"
CEILING = 0.85
RISES = 0.05
"""Rise of the held-out accuracy over the second half of the run, from which on it has not settled."""
SMOOTHED = 0.05
"""A label smoothing that reckons with noise; some losses have less by default."""


def check(case: Case) -> Finding | None:
    for other in (learning_rate_zero, no_gradient, nothing_learned, ranks_at_chance):
        if other.RULE.finds(case):
            raise NotChecked(f"{other.RULE.name} has found why")
    train, held_out = case[TRAIN], case[HELD_OUT]
    low = case.find(f"{case.named(HELD_OUT)}_low")
    if low is not None and low.last <= 0.5:
        return None  # no better than a coin, for all that the held-out pairs show
    half = train.tail(len(train) // 2)
    level = fmean(half.values)
    high = case.find(f"{case.named(HELD_OUT)}_high")
    reached = held_out.last if high is None else high.last
    smoothed = max(case.objective.label_smoothing, case.option("label_smoothing", 0.0)) >= SMOOTHED
    has_settled = abs(shift(half.values).value) < 0.05 and fmean(ends(train.values)[0]) < level + 0.05
    rises = len(held_out) > 3 and held_out.last - held_out.values[(len(held_out) - 1) // 2] >= RISES
    is_beyond = not 0.55 < level < CEILING or reached > CEILING or abs(level - held_out.last) > 0.07
    if rises or not has_settled or is_beyond:
        return None
    fix = {} if smoothed else smoothed_labels(case, round(min(0.4, 1 - level), 2))
    untold = "" if case.tells("label_smoothing") or case.objective.options else ", if they are not smoothed already"
    return Finding(
        severity="info",
        confidence="possible",
        verdict=f"accuracy has settled at {level:.0%}, in training as on held-out pairs ({held_out.last:.0%})",
        evidence=(
            Evidence(metric=case.named(TRAIN), steps=half.span, value=level, expected=f"above {CEILING:g}, or rising"),
            Evidence(metric=case.named(HELD_OUT), steps=held_out.span, value=held_out.last),
        ),
        cause=f"about {1 - level:.0%} of the labels contradict the rest (20 to 40% is usual of people's), or the model "
        "is too small for the task",
        next_action="nothing by options: labels are smoothed already. Label some pairs twice; where people agree more "
        "often than this, take a larger model"
        if smoothed
        else "label some pairs twice: where people agree no more often than this, smooth the labels "
        + ("(--hyperparameters.label_smoothing)" if fix else "(with a loss that has label_smoothing: docs/papers.md)")
        + f"{untold}; otherwise take a larger model",
        fix=fix,
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
FIRES_ALSO = (
    example({"rewards/accuracies": _SETTLED, "eval_rewards/accuracies": {44: 0.65}}, stage="dpo", loss_type="ipo"),
)
"""A loss that has no label_smoothing, so that no option helps."""
QUIET_ALSO = (
    example({"accuracy": _SETTLED, "eval_accuracy": {11: 0.4, 22: 0.57, 33: 0.63, 44: 0.65}}, stage="reward"),
    example({"rewards/accuracies": _SETTLED, "eval_rewards/accuracies": {44: 0.62},
             "eval_rewards/accuracies_low": {44: 0.496}}, stage="dpo"),
    example({"rewards/accuracies": _SETTLED, "eval_rewards/accuracies": {44: 0.65},
             "learning_rate": [0.0] * len(_SETTLED)}, stage="dpo"),
)  # fmt: skip
"""Held-out pairs that are still being learned, or too few to exclude a coin; a model that does not move."""
