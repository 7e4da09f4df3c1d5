"""After many steps the loss is where it began: the steps are too small, or the data teach nothing."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.rule import PAIRS, NotChecked, Rule
from assent.diagnosis.rules import reference_moves
from assent.statistics.small import SURE, ends, fmean, mean_interval

LOSS, MARGIN, RATE = "loss", "rewards/margins", "learning_rate"
STEPS = 40
STILL = 0.02
"""A margin below this is no learning: it changes a pair's probability by half a percent."""


def check(case: Case) -> Finding | None:
    if case.objective.start is None:
        raise NotChecked("the loss's value at the start is not known (loss_type)")
    if case.planned_steps and case.steps < 0.5 * case.planned_steps:
        return None
    rates = case.find(RATE)
    if rates is not None and not any(rates.values):
        return None  # learning_rate_zero
    if reference_moves.RULE.missing(case) is None and reference_moves.check(case) is not None:
        raise NotChecked("reference_moves has found the cause")
    loss, margins = case[LOSS], case[MARGIN]
    first, last = ends(loss.values)
    if abs(fmean(first) - case.objective.start) > 0.05 * case.objective.start:
        return None  # it began elsewhere, or has moved and come back: another rule's case
    _, last_margins = ends(margins.values)
    moved = mean_interval(last_margins, confidence=SURE)
    if abs(fmean(last) - case.objective.start) > 0.01 * case.objective.start or abs(moved.value) > STILL:
        return None
    span = margins.tail(len(last_margins)).span
    return Finding(
        severity="fault",
        verdict=f"nothing is learned: after {case.steps} steps the loss is {fmean(last):.4g}, where it began, and the "
        f"margin {moved.value:.2g}",
        evidence=(
            Evidence(metric=LOSS, steps=loss.tail(len(last)).span, value=fmean(last),
                     expected=f"below {case.objective.start:.4g}"),
            Evidence(metric=MARGIN, steps=span, value=moved.value, expected=f"above {STILL:g}"),
        ),
        cause="the learning rate is too low for so few steps, or beta so low that the margin stays small; where "
        "neither is, chosen and rejected do not differ in what the model reads",
        next_action="raise the learning rate tenfold; if the margin still stays at 0, look at the rows as the model "
        "reads them (assent data show)",
        fix={"learning_rate": times(10.0)},
    )  # fmt: skip


RULE = Rule(
    name="nothing_learned",
    title="the loss stays at its start",
    metrics=(LOSS, MARGIN),
    least=STEPS,
    stages=PAIRS,
    check=check,
    causes=("learning rate too low", "too few steps", "pairs that are equal after the cut", "beta too low"),
    source="people's threads: the loss stays at 0.693 (failures D7, D14)",
)

_LOSSES = [0.6931 + 0.001 * (-1) ** i for i in range(60)]
FIRES = example({LOSS: _LOSSES, MARGIN: [0.002 * (-1) ** i for i in range(60)]}, stage="dpo", loss_type="sigmoid",
                learning_rate=1e-9)  # fmt: skip
QUIET = example({LOSS: [value - 0.002 * i for i, value in enumerate(_LOSSES)],
                 MARGIN: [0.004 * i for i in range(60)]}, stage="dpo", loss_type="sigmoid")  # fmt: skip
