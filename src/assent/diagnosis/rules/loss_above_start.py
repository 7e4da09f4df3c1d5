"""The training loss climbs above where it began: worse than the model knew before training."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.objective import LN2
from assent.diagnosis.rule import DPO, REWARD, SFT, NotChecked, Rule
from assent.statistics.small import SURE, difference, fmean, mean_interval

LOSS, HELD_OUT = "loss", "eval_loss"
PARTS = 5
"""The run is cut into so many parts, and each is compared with the start."""
LEAST = 0.02
"""Smallest rise that counts, as a share of the start."""


def check(case: Case) -> Finding | None:
    loss, size = case[LOSS], len(case[LOSS]) // PARTS
    known = LN2 if case.stage == "reward" and case.option("loss_type", "bradley_terry") == "bradley_terry" else None
    # a reward model's new head has margins of its own, so that it may begin above a coin's loss
    start = case.objective.start or (None if known is None else max(known, loss.first))
    held_out = case.find(HELD_OUT)
    if case.stage == "sft" and held_out is not None and held_out.steps[0] == 0:
        start = max(held_out.first, loss.first)  # the first lines of a broken run are above its start already
    if start is None and case.stage != "sft":
        raise NotChecked("the loss's value at the start is not known (loss_type)")
    reached, first = (start, None) if start is not None else (fmean(loss.values[:size]), loss.values[:size])
    worst: tuple[float, int] | None = None
    for part in range(PARTS):
        values = loss.values[part * size : (part + 1) * size]
        low = mean_interval(values, confidence=SURE).low - reached
        if first is not None:
            low = difference(values, first, confidence=SURE).low
        if low > 0 and fmean(values) > reached * (1 + LEAST) and (worst is None or fmean(values) > worst[0]):
            worst = fmean(values), part
    if worst is None:
        return None
    at_end = worst[1] == PARTS - 1
    steps = loss.steps[worst[1] * size], loss.steps[min((worst[1] + 1) * size, len(loss)) - 1]
    return Finding(
        severity="fault" if at_end else "warning",
        verdict=f"the training loss rose above its start of {reached:.3g} "
        + ("and ends there" if at_end else "on the way, and came down again"),
        evidence=(Evidence(metric=LOSS, steps=steps, value=worst[0], expected=f"at most {reached:.4g}"),),
        cause="the learning rate is too high" + ("" if at_end else " at its peak"),
        next_action="lower the learning rate, or warm up for longer",
        fix={"learning_rate": times(0.1 if at_end else 0.3)},
    )


RULE = Rule(
    name="loss_above_start",
    title="the training loss rises above its start",
    metrics=(LOSS,),
    also=(HELD_OUT,),
    least=4 * PARTS,
    stages=SFT | REWARD | DPO,
    check=check,
    causes=("learning rate too high", "no warm-up"),
    source="a public DPO run at a peak rate of 5e-4 whose loss passes ln 2 in the middle",
)

_NOISE = [0.01, -0.01, 0.02, -0.02, 0.0]
FIRES = example({LOSS: [level + e for level in (0.69, 0.68, 0.85, 0.6, 0.5) for e in _NOISE]}, stage="dpo",
                loss_type="sigmoid")  # fmt: skip
QUIET = example({LOSS: [level + e for level in (0.69, 0.68, 0.69, 0.6, 0.5) for e in _NOISE]}, stage="dpo",
                loss_type="sigmoid")  # fmt: skip
