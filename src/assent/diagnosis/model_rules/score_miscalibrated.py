"""The probability that the scores state is not the share of pairs that is right."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import Rule
from assent.diagnosis.scored import overconfidence, right, scored_example, scored_in, temperature

OFF = 0.05
"""Stated minus actual accuracy (failures R4; published reward models have calibration errors of 0.09 to 0.19)."""
SCALE = 4.0
"""Factor by which the scores are too large or too small. Healthy tiny models have 0.3 to 1.6, scores times 20 have 9 to
17. An accurate model can be no more than a little too sure, whatever its scale: the factor tells more."""


def check(case: Case) -> Finding | None:
    margins = scored_in(case).need_pairs()
    off, best = overconfidence(margins), temperature(margins)
    too_sure = off.value > 0
    if best is None:  # all pairs are right, or no scale makes the scores fit
        found = off.low > OFF or off.high < -OFF
    else:
        is_sure = off.low > 0 or off.high < 0
        found = is_sure and abs(off.value) > OFF and (best > SCALE if too_sure else best < 1 / SCALE)
    if not found:
        return None
    accuracy = right(margins)
    divide = "" if best is None else f": divide the scores by {best:.2g}"
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"it is too {'sure of itself' if too_sure else 'unsure'}: its scores state "
        f"{accuracy.value + off.value:.0%} right, "
        f"and {accuracy.value:.0%} are",
        evidence=(
            Evidence(metric="stated minus actual accuracy", value=off.value, expected=f"within ±{OFF:g}"),
            *([] if best is None else [
                Evidence(metric="scores over those that fit best", value=best, expected=f"1/{SCALE:g} to {SCALE:g}")
            ]),
        ),
        cause="it was trained for too long, or its scores were scaled up"
        if too_sure
        else "it was trained for too short a time, or its scores were scaled down",
        next_action=f"where its scores are read as probabilities (labels, filters), scale them{divide}. For RLHF the "
        f"ranking matters, "
        "and the scale goes with kl_coef",
    )  # fmt: skip


RULE = Rule(
    name="score_miscalibrated",
    title="a reward model is surer, or less sure, than it is right",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("several epochs", "scaled scores"),
    source="Guo et al., arXiv:1706.04599; Leng et al., arXiv:2410.09724 (failures R4)",
)

_HEALTHY = scored_example().models
FIRES = scored_example(
    worse=[better - 8 * margin for better, margin in zip(_HEALTHY.better, _HEALTHY.margins, strict=True)]
)
QUIET = scored_example()
