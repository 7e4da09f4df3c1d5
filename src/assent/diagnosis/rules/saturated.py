"""The training loss is next to its floor and every pair is right: there is nothing left to learn but to be surer."""

from __future__ import annotations

from assent.diagnosis.advice import fit_less
from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import PAIRS, NotChecked, Rule
from assent.statistics.small import ends, fmean

LOSS, MARGIN, ACCURACY = "loss", "rewards/margins", "rewards/accuracies"
NOTHING = 0.02
"""A loss below this has no gradient to speak of."""
LOGISTIC = (None, "sigmoid", "all_pairs", "plackett_luce", "davidson", "rao_kupper")
"""Losses whose margin has no end. One that nothing names is taken for one of them."""
HUGE = 5.0
"""Of tiny runs, memorised pairs reach 6 to 8, healthy ones 3."""


def check(case: Case) -> Finding | None:
    if case.objective.loss not in LOGISTIC or case.objective.label_smoothing:
        raise NotChecked("only plain logistic losses saturate")
    loss, margin = (fmean(ends(case[name].values)[1]) for name in (LOSS, MARGIN))
    accuracy = fmean(ends(case[ACCURACY].values)[1])
    if loss > NOTHING or margin < HUGE or accuracy < 0.99:
        return None
    what_to_do, fix = fit_less(case)
    is_told = case.objective.loss is not None
    return Finding(
        severity="fault",
        confidence="likely" if is_told else "possible",
        verdict=f"the loss is saturated: {loss:.2g} at a margin of {margin:.3g}, with every training pair right",
        evidence=(
            Evidence(metric=LOSS, steps=case[LOSS].span, value=loss, expected="above 0.1"),
            Evidence(metric=MARGIN, steps=case[MARGIN].span, value=margin, expected=f"below {HUGE:g}"),
        ),
        cause="too many passes over too few pairs, or too high a learning rate: the margin grows without end, and the "
        "answers get worse"
        + ("" if is_told else "; under a hinge, which the log does not rule out, a loss of 0 is no fault"),
        next_action=f"{what_to_do}; --loss-type ipo, or label_smoothing, gives the margin an end",
        fix=fix,
    )


RULE = Rule(
    name="saturated",
    title="the loss is saturated",
    metrics=(LOSS, MARGIN, ACCURACY),
    least=12,
    stages=PAIRS,
    check=check,
    causes=("too many epochs", "too few pairs", "learning rate too high"),
    source="failures D6: margins from 57 to 599 were reported",
)

_UP = [min(20.0, 1.5 * i) for i in range(24)]
FIRES = example({LOSS: [0.69 / (1 + i * i) for i in range(24)], MARGIN: _UP, ACCURACY: [1.0] * 24}, stage="dpo",
                loss_type="sigmoid", beta=0.1, num_train_epochs=50.0)  # fmt: skip
QUIET = example({LOSS: [0.69 - 0.02 * i for i in range(24)], MARGIN: [0.1 * i for i in range(24)],
                 ACCURACY: [0.8] * 24}, stage="dpo", loss_type="sigmoid")  # fmt: skip
_LEARNED = {LOSS: [0.69 / (1 + i * i) for i in range(24)], MARGIN: _UP, ACCURACY: [1.0] * 24}
FIRES_ALSO = (example(_LEARNED, stage="dpo", loss_type="plackett_luce", beta=0.1, num_train_epochs=20.0),)
QUIET_ALSO = (example(_LEARNED, stage="dpo", loss_type="hinge", beta=0.1, num_train_epochs=20.0),)
"""A hinge is 0 beyond its margin by design."""
