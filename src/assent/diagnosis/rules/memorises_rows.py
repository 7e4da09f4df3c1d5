"""After several passes the training rows cost far less than held-out ones, which get no better: learned by heart."""

from __future__ import annotations

from assent.diagnosis.advice import fit_less, passes_of
from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import DPO, REWARD, SFT, THUMBS, NotChecked, Rule
from assent.diagnosis.rules import held_out_rises, memorises_epochs
from assent.statistics.small import ends, fmean

LOSS, HELD_OUT = "loss", "eval_loss"
PASSES = 3.0
SHARE = 0.6
"""Of the held-out loss, below which the training loss is far from it. Pairs read 18 times: 0.03 to 0.5."""
LATE = 0.9
"""Share of the run; a held-out loss that is lowest after it still falls, and the passes are of use."""


def check(case: Case) -> Finding | None:
    epochs = case.find("epoch")
    passes = passes_of(case) if epochs is None else epochs.last  # a live run has made fewer than it was given
    if passes is None:
        raise NotChecked("nothing tells how often rows were read (epoch)")
    if passes < PASSES:
        return None
    for other in (memorises_epochs.RULE, held_out_rises.RULE):
        if other.finds(case):
            raise NotChecked(f"{other.name} has found the same")
    loss, held_out = case[LOSS], case[HELD_OUT]
    last = fmean(ends(loss.values)[1])
    best = held_out.steps[min(range(len(held_out)), key=held_out.values.__getitem__)]
    if last > SHARE * held_out.last or best > LATE * held_out.steps[-1]:
        return None
    what_to_do, fix = fit_less(case, share=best / max(1, case.planned_steps or held_out.steps[-1]))
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"after {passes:.3g} passes the training loss is {last:.2g} and the held-out loss "
        f"{held_out.last:.2g}, no lower than at step {best}: rows are learned by heart",
        evidence=(
            Evidence(metric=LOSS, steps=loss.tail(len(ends(loss.values)[1])).span, value=last,
                     expected=f"above {SHARE * held_out.last:.2g}"),
            Evidence(metric=HELD_OUT, steps=held_out.span, value=held_out.last),
        ),
        cause="more passes over the rows than they have to teach",
        next_action=f"{what_to_do}, or add rows; judge by answers, as a memorised model may still be a good one",
        fix=fix,
    )  # fmt: skip


RULE = Rule(
    name="memorises_rows",
    title="memorisation: training rows cost far less than held-out ones",
    metrics=(LOSS, HELD_OUT),
    least=4,
    stages=SFT | REWARD | DPO | THUMBS,
    check=check,
    causes=("too many epochs", "too few rows"),
    source="failures D6; degradation inside the first epoch: arXiv:2406.02900",
)

_BY_HEART = [0.69, 0.5, 0.3, 0.2, *[0.1] * 36]
_LEVEL = {0: 0.69, 10: 0.5, 20: 0.48, 30: 0.485, 40: 0.49}
FIRES = example({LOSS: _BY_HEART, HELD_OUT: _LEVEL}, stage="dpo", num_train_epochs=18.0)
QUIET = example({LOSS: _BY_HEART, HELD_OUT: {**_LEVEL, 40: 0.4}}, stage="dpo", num_train_epochs=18.0)
QUIET_ALSO = (
    example({LOSS: _BY_HEART, HELD_OUT: _LEVEL}, stage="dpo", num_train_epochs=2.0),
    example({LOSS: [0.69, *[0.4] * 39], HELD_OUT: _LEVEL}, stage="dpo", num_train_epochs=18.0),
)
"""Held-out rows that still get better; two passes; training rows that cost nearly as much."""
