"""The learning rate is still rising from next to nothing: what the curves do so far says little."""

from __future__ import annotations

from itertools import pairwise

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import Rule

RATE = "learning_rate"
EARLY = 0.15
"""Share of the planned steps within which a rate that only rises is a warm-up."""


def check(case: Case) -> Finding | None:
    rates = case[RATE]
    only_rises = all(after >= before for before, after in pairwise(rates.values))
    grown = rates.last > 3 * min(rates.first, rates.values[len(rates) // 2])
    if case.status == "finished" or not (only_rises and grown):
        return None
    if case.planned_steps and case.steps > EARLY * case.planned_steps:
        return None
    planned = f" of {case.planned_steps:,}" if case.planned_steps else ""
    return Finding(
        severity="info",
        confidence="certain",
        verdict=f"after {case.steps:,}{planned} steps the run is still in its warm-up, so nothing can be judged yet",
        evidence=(Evidence(metric=RATE, steps=rates.span, value=rates.last, expected="past its peak"),),
        cause="the learning rate rises from next to nothing during warm-up, and little is learned meanwhile",
        next_action="look again after the warm-up",
    )


RULE = Rule(
    name="warming_up",
    title="the run is still in its warm-up",
    metrics=(RATE,),
    least=4,
    check=check,
    too_early=True,
    causes=("the run has just begun",),
    source="a public LLaMA-Factory log that was asked about at 4% of its steps",
)

FIRES = example({RATE: [1e-9 * step for step in range(1, 40)], "loss": [0.7, 0.6, 0.9] * 13}, stage="dpo")
QUIET = example({RATE: [1e-7, 5e-7, 1e-6, 9e-7, 8e-7], "loss": [0.69] * 5}, stage="dpo")
