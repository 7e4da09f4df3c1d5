"""After many steps the loss is where it began: the steps are too small, or the data teach nothing."""

from __future__ import annotations

import math

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, factor_to, times
from assent.diagnosis.rule import PAIRS, THUMBS, NotChecked, Rule
from assent.diagnosis.rules import beta_too_low, reference_moves
from assent.statistics.small import SURE, ends, fmean, mean_interval

LOSS, MARGIN, RATE = "loss", "rewards/margins", "learning_rate"
HELD_OUT = "eval_rewards/margins"
"""Of the same rows, measured again: it stands still where the weights do."""
STEPS, FEW = 40, 10
"""Steps after which training rows show it, and after which held-out ones do."""
UNMOVED = 0.001
"""A held-out margin that moved by less has not moved. Healthy tiny runs: 0.05 and more; a rate of 1e-8: 5e-5."""
STILL = 0.02
"""A margin below this is no learning: it changes a pair's probability by half a percent."""
LEARNED = 1.0
"""A margin that a run which has learned something reaches. It grows in proportion to the rate, while it is small."""
SMALLEST, LARGEST = 10.0, 1e5
UNSEEN = 100.0
"""What to raise the rate by where the margin is within its noise, so that it does not say how far it is."""


def check(case: Case) -> Finding | None:
    if case.planned_steps and case.steps < 0.5 * case.planned_steps:
        return None
    rates = case.find(RATE)
    if rates is not None and not any(rates.values):
        return None  # learning_rate_zero
    if reference_moves.RULE.finds(case):
        raise NotChecked("reference_moves has found the cause")
    if beta_too_low.RULE.finds(case):
        raise NotChecked("beta_too_low has found the cause")
    if (unmoved := _unmoved(case)) is not None:
        return unmoved
    loss, margins = case[LOSS], case[MARGIN]
    if case.objective.start is None:
        raise NotChecked("the loss's value at the start is not known (loss_type)")
    if len(loss) < STEPS:
        raise NotChecked(f"too few steps: {len(loss)} of {STEPS}")
    first, last = ends(loss.values)
    if abs(fmean(first) - case.objective.start) > 0.05 * case.objective.start:
        return None  # it began elsewhere, or has moved and come back: another rule's case
    _, last_margins = ends(margins.values)
    moved = mean_interval(last_margins, confidence=SURE)
    if abs(fmean(last) - case.objective.start) > 0.01 * case.objective.start or abs(moved.value) > STILL:
        return None
    span = margins.tail(len(last_margins)).span
    raised = factor_to(LEARNED, moved.value, least=SMALLEST, most=LARGEST if moved.low > 0 else UNSEEN)
    return _finding(
        f"after {case.steps} steps the loss is {fmean(last):.4g}, where it began, and the margin {moved.value:.2g}",
        (
            Evidence(metric=LOSS, steps=loss.tail(len(last)).span, value=fmean(last),
                     expected=f"below {case.objective.start:.4g}"),
            Evidence(metric=MARGIN, steps=span, value=moved.value, expected=f"above {STILL:g}"),
        ),
        raised,
    )  # fmt: skip


def _unmoved(case: Case) -> Finding | None:
    """Where held-out margins were measured before training, and are still what they were."""
    held_out = case.find(HELD_OUT)
    if held_out is None or len(held_out) < 2 or held_out.steps[0] != 0 or held_out.steps[-1] < FEW:
        return None
    moved = held_out.last - held_out.first
    if abs(moved) >= UNMOVED:
        return None
    return _finding(
        f"after {held_out.steps[-1]} steps the held-out margin has moved by {moved:.1g}",
        (Evidence(metric=HELD_OUT, steps=held_out.span, value=moved, expected=f"beyond {UNMOVED:g}"),),
        factor_to(LEARNED, moved, least=SMALLEST, most=LARGEST),
    )


def _finding(what: str, evidence: tuple[Evidence, ...], raised: float) -> Finding:
    return Finding(
        severity="fault",
        verdict=f"nothing is learned: {what}",
        evidence=evidence,
        cause="the learning rate is too low for so few steps; where it is not, chosen and rejected do not differ in "
        "what the model reads",
        next_action=f"raise the learning rate {raised:g} times: the margin grows with it. If it still stays at 0, "
        "look at the rows as the model reads them (assent data show FILE --model MODEL)",
        fix={"learning_rate": times(raised)},
    )


RULE = Rule(
    name="nothing_learned",
    title="the loss stays at its start",
    metrics=(LOSS, MARGIN),
    also=(HELD_OUT, RATE),
    least=FEW,
    stages=PAIRS | THUMBS,
    check=check,
    causes=("learning rate too low", "too few steps", "pairs that are equal after the cut", "beta too low"),
    source="people's threads: the loss stays at 0.693 (failures D7, D14)",
)

_LOSSES = [0.6931 + 0.001 * (-1) ** i for i in range(60)]
FIRES = example({LOSS: _LOSSES, MARGIN: [0.002 * (-1) ** i for i in range(60)]}, stage="dpo", loss_type="sigmoid",
                learning_rate=1e-9)  # fmt: skip
QUIET = example({LOSS: [value - 0.002 * i for i, value in enumerate(_LOSSES)],
                 MARGIN: [0.004 * i for i in range(60)]}, stage="dpo", loss_type="sigmoid")  # fmt: skip


def _still(start: float, **series: list[float]) -> dict[str, list[float]]:
    return {LOSS: [start, *(start + 0.001 * (-1) ** i for i in range(59))], MARGIN: [0.0] * 60, **series}


_FEW = {LOSS: [0.5] * 20, MARGIN: [0.0] * 20}
FIRES_ALSO = (
    example(_still(math.log(6)), stage="dpo", loss_type="plackett_luce", learning_rate=1e-9),
    example(_still(math.log(3)), stage="dpo", loss_type="davidson", learning_rate=1e-9),
    example(_still(0.5), stage="kto", loss_type="kto", learning_rate=1e-9),
    example({**_FEW, HELD_OUT: {0: 1e-8, 20: 4e-6}}, stage="kto", loss_type="kto", learning_rate=1e-8),
    example({**_FEW, HELD_OUT: {0: 0.14, 20: 0.14002}}, stage="dpo", loss_type="simpo", learning_rate=1e-8),
)
_FALLING = [math.log(6) - 0.004 * i for i in range(60)]
QUIET_ALSO = (
    example({LOSS: _FALLING, MARGIN: [0.005 * i for i in range(60)]}, stage="dpo", loss_type="plackett_luce"),
    example({LOSS: [0.5 - 0.001 * i for i in range(60)], MARGIN: [0.004 * i for i in range(60)]}, stage="kto"),
    example({**_FEW, HELD_OUT: {0: 1e-8, 20: 0.05}}, stage="kto", loss_type="kto"),
    example({**_FEW, HELD_OUT: {10: 0.05, 20: 0.05}}, stage="kto", loss_type="kto"),
)
"""Rankings of three, ties as an outcome, thumbs; held-out rows that stand still, move, or were not measured before."""
