"""The held-out loss has passed its lowest point and rises: the model fits the training rows, not the task."""

from __future__ import annotations

from assent.diagnosis.advice import fit_less, passes_of
from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import DPO, REWARD, SFT, THUMBS, NotChecked, Rule
from assent.diagnosis.rules import learns_the_opposite, memorises_epochs
from assent.statistics.small import noise

LOSS = "eval_loss"
ACCURACY = "eval_accuracy or eval_rewards/accuracies"
APART = "eval_rewards/margins"
RISE, RISE_OF_NEW = 0.05, 0.15
"""Smallest rise above the lowest value that counts, as a share of it; of rows that were read once. Healthy tiny runs of
one pass go up and down by 0.12."""
BACK = 0.1
"""Smallest rise that counts, as a share of what the loss had fallen before."""


def check(case: Case) -> Finding | None:
    if memorises_epochs.RULE.finds(case):
        raise NotChecked("memorises_epochs has found the same")
    if learns_the_opposite.RULE.finds(case):
        raise NotChecked("learns_the_opposite has found the cause")
    loss = case[LOSS]
    lowest = min(range(len(loss)), key=loss.values.__getitem__)
    after = loss.values[lowest + 1 :]
    least = loss.values[lowest]
    passes = passes_of(case)
    rise = RISE if passes is not None and passes > 1.0 else RISE_OF_NEW
    spread = max(3 * noise(loss.values), rise * abs(least), BACK * (loss.first - least))
    if len(after) < 2 or min(after[-2:]) <= least + spread:
        return None
    apart = case.find(APART)
    if case.stage == "kto" and apart is not None and apart.last >= 0.95 * max(apart.values):
        return None  # its loss goes up and down with its KL baseline; what it learns shows in how far thumbs part
    accuracy = case.find(ACCURACY)
    falls = accuracy is not None and accuracy.last < max(accuracy.values) - 0.03
    # a rate at which the held-out loss never fell is not mended by stopping earlier
    best = loss.steps[lowest]
    what_to_do, fix = fit_less(
        case, share=best / max(1, case.planned_steps or loss.steps[-1]), rate=0.3 if best > 0 else 0.1
    )
    once = best == 0 or (passes is not None and passes <= 1.0)
    return Finding(
        severity="fault" if falls or accuracy is None else "warning",
        verdict=f"the held-out loss rises since step {loss.steps[lowest]}, from {least:.3g} to {loss.last:.3g}"
        + ("" if accuracy is None or falls else ", while the held-out accuracy holds: too sure, not yet worse"),
        evidence=(
            Evidence(metric=LOSS, steps=(loss.steps[lowest], loss.steps[-1]), value=loss.last,
                     expected=f"about {least:.3g}, its lowest"),
            *([Evidence(metric=case.named(ACCURACY), steps=accuracy.span, value=accuracy.last)] if accuracy else []),
        ),
        cause="the learning rate is too high: the rows were read once, or the held-out loss never fell"
        if once
        else "too many passes over too few rows, or a learning rate that is too high",
        next_action=f"{what_to_do}; --metric-for-best-model loss keeps the best checkpoint, near step {best}",
        fix=fix,
    )  # fmt: skip


RULE = Rule(
    name="held_out_rises",
    title="overfitting: the held-out loss rises",
    metrics=(LOSS,),
    also=(APART,),
    least=4,
    stages=SFT | REWARD | DPO | THUMBS,
    check=check,
    causes=("too many epochs", "too few rows", "learning rate too high"),
    source="failures R8 and D6; arXiv:2406.02900",
)

FIRES = example({LOSS: {10: 0.6, 20: 0.5, 30: 0.49, 40: 0.58, 50: 0.7}}, stage="reward", num_train_epochs=20.0)
QUIET = example({LOSS: {10: 0.6, 20: 0.5, 30: 0.49, 40: 0.50, 50: 0.49}}, stage="reward")
_RISEN = {10: 0.5, 20: 0.40, 30: 0.42, 40: 0.433, 50: 0.433}
FIRES_ALSO = (
    example({LOSS: _RISEN, APART: {10: 0.0, 20: 0.8, 30: 0.7, 40: 0.6, 50: 0.5}}, stage="kto", num_train_epochs=9.0),
    example({LOSS: {0: 2.0, 10: 2.4, 20: 2.9, 30: 3.0}}, stage="sft", num_train_epochs=1.0),
)
QUIET_ALSO = (example({LOSS: _RISEN, APART: {10: 0.0, 20: 0.8, 30: 1.0, 40: 1.05, 50: 1.1}}, stage="kto"),)
"""KTO, whose loss is no measure alone; a rate at which nothing was learned from the first step on."""
