"""The training loss climbs above where it began: worse than the model knew before training.

Where it began is what the loss declares for equal answers, if that is one value. Otherwise (SFT, a likelihood that is
added, rankings of several sizes, ties) it is what the run itself measured before its first update.
"""

from __future__ import annotations

import math

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.rule import DPO, REWARD, SFT, NotChecked, Rule
from assent.statistics.small import SURE, difference, fmean, mean_interval

LOSS, HELD_OUT = "loss", "eval_loss"
PARTS = 5
"""The run is cut into so many parts, and each is compared with the start."""
LEAST = 0.02
"""Smallest rise that counts, as a share of the start."""


def check(case: Case) -> Finding | None:
    loss, size = case[LOSS], len(case[LOSS]) // PARTS
    start = _start(case)
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
        next_action="lower the learning rate to a tenth"
        if at_end
        else "lower the learning rate to a third, or warm up for longer (--warmup-ratio 0.1)",
        fix={"learning_rate": times(0.1 if at_end else 0.3)},
    )


def _start(case: Case) -> float | None:
    """The loss before training; None: the run's first part has to do for it."""
    declared, loss, held_out = case.objective.start, case[LOSS], case.find(HELD_OUT)
    if declared is not None and case.stage != "reward":
        return declared
    if declared is None and case.objective.loss is None and case.stage != "sft":
        raise NotChecked("the loss's value at the start is not known (loss_type)")
    # measured before the first update, as the first lines of a broken run are above its start already
    measured = [held_out.first] if held_out is not None and held_out.steps[0] == 0 else []
    if declared is not None:  # a reward model's new head has margins of its own, so that it may begin higher
        return max(declared, loss.first, *measured)
    return max(loss.first, *measured) if measured else None


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


def _curve(*levels: float) -> list[float]:
    return [levels[0], *(level + e for level in levels for e in _NOISE)][: 5 * len(levels)]


_AT_START = {"rewards/margins": [0.0, *[0.1] * 24]}
FIRES_ALSO = (
    example({LOSS: _curve(math.log(6), 1.8, 1.9, 2.1, 2.2), **_AT_START}, stage="dpo", loss_type="plackett_luce"),
    example({LOSS: _curve(0.92, 0.9, 1.1, 1.2, 1.2)}, stage="reward", loss_type="rao_kupper"),
    example({LOSS: _curve(3.2, 3.1, 3.4, 3.5, 3.5)}, stage="dpo", loss_type="rpo"),
)
QUIET_ALSO = (
    example({LOSS: _curve(math.log(6), 1.75, 1.7, 1.6, 1.6), **_AT_START}, stage="dpo", loss_type="plackett_luce"),
    example({LOSS: _curve(2.4, 2.3, 2.3, 2.2, 2.1), **_AT_START}, stage="dpo", loss_type="plackett_luce"),
    example({LOSS: _curve(1.31, 1.3, 1.2, 1.1, 1.1), **_AT_START}, stage="dpo", loss_type="sigmoid"),
    example({LOSS: _curve(math.log(2.5), 0.9, 0.85, 0.8, 0.8)}, stage="reward", loss_type="rao_kupper"),
    example({LOSS: _curve(3.2, 3.1, 2.9, 2.7, 2.5)}, stage="dpo", loss_type="rpo"),
    example({LOSS: _curve(1.9, 1.8, 1.6, 1.5, 1.5)}, stage="dpo",
            losses=[{"name": "sigmoid"}, {"name": "sft", "weight": 0.5}]),
)  # fmt: skip
"""Rankings of three, and of several sizes; a margin column; ties as an outcome; a likelihood that is added."""
