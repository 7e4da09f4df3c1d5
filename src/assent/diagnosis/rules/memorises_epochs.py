"""The training loss steps down where an epoch begins: the model knows the rows that it has seen before."""

from __future__ import annotations

from assent.diagnosis.advice import fit_less
from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import DPO, REWARD, SFT, THUMBS, Rule
from assent.statistics.small import SURE, difference, fmean

LOSS, EPOCH, HELD_OUT = "loss", "epoch", "eval_loss"
MOST = 200
"""Epochs that are looked at."""
DROP = 0.25
"""Smallest step down that counts, as a share of the loss before it."""


def check(case: Case) -> Finding | None:
    step_down = largest_step(case)
    if step_down is None:
        return None
    at, before, after = step_down
    evidence = [Evidence(metric=LOSS, steps=(at, at), value=after, expected=f"about {before:.3g}, as before")]
    held_out, rises = case.find(HELD_OUT), False
    if held_out is not None and len(held_out) >= 3:
        lowest = min(range(len(held_out)), key=held_out.values.__getitem__)
        rises = lowest < len(held_out) - 1 and held_out.last > 1.05 * held_out.values[lowest]
        evidence.append(
            Evidence(metric=HELD_OUT, steps=(held_out.steps[lowest], held_out.steps[-1]), value=held_out.last,
                     expected=f"about {held_out.values[lowest]:.3g}, its lowest")
        )  # fmt: skip
    what_to_do, fix = fit_less(case)
    return Finding(
        severity="warning",
        confidence="certain" if rises else "likely",
        verdict="the training loss steps down where an epoch begins: the rows seen before are memorised"
        + (", while the held-out loss rises" if rises else ""),
        evidence=tuple(evidence),
        cause="more than one pass over the data; preferences are learned in the first one",
        next_action=f"{what_to_do}, or keep the checkpoint with the lowest held-out loss (--metric-for-best-model "
        "loss); judge by answers, as a memorised model may still be a good one",
        fix=fix,
    )


def largest_step(case: Case) -> tuple[int, float, float] | None:
    """(step, loss before, loss after) of the largest step down at the beginning of an epoch."""
    loss, epochs = case[LOSS], case[EPOCH]
    epoch_at = dict(zip(epochs.steps, epochs.values, strict=True))
    both = [
        (step, value, epoch_at[step]) for step, value in zip(loss.steps, loss.values, strict=True) if step in epoch_at
    ]
    found: list[tuple[float, int, float, float]] = []
    last = min(MOST, max((epoch for *_, epoch in both), default=0.0))
    for boundary in range(1, int(last) + 1):
        # a line's epoch is what was done when it was written: the step that ends an epoch still belongs to it
        before = [value for _, value, epoch in both if boundary - 0.5 <= epoch <= boundary + 1e-6]
        after = [(step, value) for step, value, epoch in both if boundary + 1e-6 < epoch <= boundary + 0.5]
        if min(len(before), len(after)) < 4:
            continue
        values = [value for _, value in after]
        drop = difference(values, before, confidence=SURE)
        within = _fall_within(both, boundary)
        if drop.high < 0 and -drop.value > max(DROP * fmean(before), 2 * within):
            found.append((drop.value, after[0][0], fmean(before), fmean(values)))
    return min(found)[1:] if found else None


def _fall_within(both: list[tuple[int, float, float]], boundary: int) -> float:
    """How far the loss falls between the halves of the epoch before: a step must be more than the slope."""
    halves = [
        [value for _, value, epoch in both if low < epoch <= low + 0.5] for low in (boundary - 1.0, boundary - 0.5)
    ]
    return max(0.0, fmean(halves[0]) - fmean(halves[1])) if all(halves) else 0.0


RULE = Rule(
    name="memorises_epochs",
    title="memorisation: the loss steps down at each epoch",
    metrics=(LOSS, EPOCH),
    least=10,
    stages=SFT | REWARD | DPO | THUMBS,
    check=check,
    causes=("several epochs", "duplicates in the data"),
    source="the model card of zephyr-7b-beta; degradation inside the first epoch: arXiv:2406.02900",
)

_EPOCHS = [0.1 * step for step in range(1, 21)]
_NOISY = [0.02, -0.01, 0.0, 0.01, -0.02] * 2
FIRES = example({LOSS: [*(0.55 + e for e in _NOISY), *(0.1 + e for e in _NOISY)], EPOCH: _EPOCHS,
                 HELD_OUT: {5: 0.56, 10: 0.52, 15: 0.58, 20: 0.61}}, stage="dpo", num_train_epochs=2.0)  # fmt: skip
QUIET = example({LOSS: [*(0.65 - 0.01 * i + e for i, e in enumerate([*_NOISY, *_NOISY]))], EPOCH: _EPOCHS,
                 HELD_OUT: {5: 0.6, 10: 0.55, 15: 0.5, 20: 0.49}}, stage="dpo", num_train_epochs=2.0)  # fmt: skip
