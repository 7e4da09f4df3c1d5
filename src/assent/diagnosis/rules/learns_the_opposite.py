"""What the run trains on and what it is measured by disagree: the better at one, the worse at the other."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import DPO, REWARD, Rule
from assent.statistics.small import ends, fmean

TRAIN = "rewards/accuracies or accuracy"
HELD_OUT = "eval_rewards/accuracies or eval_accuracy"


def check(case: Case) -> Finding | None:
    held_out, train = case[HELD_OUT], case[TRAIN]
    name = case.named(HELD_OUT)
    high = case.find(f"{name}_high")
    # half as far again as its 95% interval: about 99.7%
    reached = held_out.last if high is None else high.last + 0.5 * (high.last - held_out.last)
    level = fmean(ends(train.values)[1])
    if reached >= (0.4 if high is None else 0.5) or level < 0.6:
        return None
    return Finding(
        severity="fault",
        confidence="certain" if high is not None else "likely",
        verdict=f"the held-out pairs are ranked the wrong way round ({held_out.last:.0%} right) although the training "
        f"pairs are learned ({level:.0%})",
        evidence=(
            Evidence(metric=name, steps=(held_out.steps[-1],) * 2, value=held_out.last, expected="above 0.5"),
            Evidence(metric=case.named(TRAIN), steps=train.span, value=level),
        ),
        cause="chosen and rejected are exchanged in one of the two files",
        next_action="read a few rows of both files (assent data show), and exchange the columns of the wrong one",
    )


RULE = Rule(
    name="learns_the_opposite",
    title="held-out pairs are ranked the wrong way round",
    metrics=(TRAIN, HELD_OUT),
    stages=DPO | REWARD,
    check=check,
    causes=("columns exchanged", "labels of the held-out file made by another standard"),
    source="failures D1",
)

FIRES = example({"rewards/accuracies": [0.5, 0.7, 0.9, 1.0], "eval_rewards/accuracies": {4: 0.2},
                 "eval_rewards/accuracies_high": {4: 0.3}}, stage="dpo")  # fmt: skip
QUIET = example({"rewards/accuracies": [0.5, 0.7, 0.9, 1.0], "eval_rewards/accuracies": {4: 0.45},
                 "eval_rewards/accuracies_high": {4: 0.6}}, stage="dpo")  # fmt: skip
