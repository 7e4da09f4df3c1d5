"""The loss has settled at the floor that label smoothing gives it: this is its optimum, and healthy."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.objective import entropy
from assent.diagnosis.rule import DPO, Rule
from assent.statistics.small import ends, fmean

LOSS, MARGIN = "loss", "rewards/margins"


def check(case: Case) -> Finding | None:
    eps, settled = case.objective.label_smoothing, case.objective.settled_margin
    if settled is None:
        return None
    loss, margin = (fmean(ends(case[name].values)[1]) for name in (LOSS, MARGIN))
    floor = entropy(eps)
    if loss > 1.15 * floor or abs(margin - settled) > 0.25 * settled:
        return None
    return Finding(
        severity="info",
        confidence="certain",
        verdict=f"the loss has settled at {loss:.3g} and the margin at {margin:.3g}: the optimum of a label smoothing "
        f"of {eps:.2g}, and healthy",
        evidence=(
            Evidence(metric=LOSS, steps=case[LOSS].span, value=loss, expected=f"{floor:.4g} at the optimum"),
            Evidence(metric=MARGIN, steps=case[MARGIN].span, value=margin, expected=f"{settled:.4g} at the optimum"),
        ),
        cause="a smoothed label asks for the probability 1 - eps, not for 1",
        next_action="nothing; the run may stop here",
    )


RULE = Rule(
    name="smoothing_plateau",
    title="label smoothing's plateau (healthy)",
    metrics=(LOSS, MARGIN),
    least=8,
    stages=DPO,
    check=check,
    causes=("label_smoothing above 0",),
    source="a public log with a floor of .203 and a margin of 2.94: H(.05) = .1985, log(.95/.05) = 2.944",
)

FIRES = example({LOSS: [0.69, 0.5, 0.3, 0.22, *[0.203] * 8], MARGIN: [0.0, 0.6, 1.8, 2.6, *[2.94] * 8]}, stage="dpo")
QUIET = example({LOSS: [0.69, 0.5, 0.3, 0.22, *[0.1] * 8], MARGIN: [0.0, 0.6, 1.8, 2.6, *[2.94] * 8]}, stage="dpo",
                loss_type="sigmoid")  # fmt: skip
