"""The chosen completions became less likely. That alone is no fault: what matters is how much, and for what.

DPO looks at the difference only. Both log-probabilities fall in most healthy runs, the rejected one's faster.
"""

from __future__ import annotations

from collections.abc import Sequence

from assent.config.losses import PREFERENCE_LOSSES
from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Change, Evidence, Finding, Severity, to
from assent.diagnosis.rule import PAIRS, NotChecked, Rule
from assent.diagnosis.rules import no_reference
from assent.statistics.small import SURE, ends, fmean, mean_interval, shift

CHOSEN, REJECTED, SUM = "rewards/chosen", "rewards/rejected", "logps/chosen"
MUCH = 0.3
"""Share of its log-probability that a chosen completion loses: 254 nats to 299 (0.18) in a model that was good."""
BY_DESIGN = ("apo_down",)
"""Losses that push both down."""
TOGETHER = 0.8
"""Fall of the chosen over that of the rejected, above which (beyond noise) they fall together: near-twins."""


def check(case: Case) -> Finding | None:
    beta = case.objective.beta
    if beta is None or case.objective.needs_reference is False:
        raise NotChecked("beta is not known (--settings), or there is no reference")
    if no_reference.RULE.missing(case) is None and no_reference.check(case) is not None:
        raise NotChecked("no_reference has found the cause")
    chosen, rejected = case[CHOSEN], case[REJECTED]
    if chosen.steps != rejected.steps:
        raise NotChecked("chosen and rejected were logged at different steps")
    if shift(chosen.values).high >= 0:
        return None
    fall, other = (-fmean(ends(series.values)[1]) / beta for series in (chosen, rejected))
    share = fall / abs(fmean(ends(case[SUM].values)[0]) or 1.0)
    if fall < 1.0:
        return None
    is_much = share > MUCH and case.objective.loss not in BY_DESIGN and _together(chosen.values, rejected.values)
    severity: Severity = "warning" if is_much else "info"
    return Finding(
        severity=severity,
        confidence="likely" if is_much else "certain",
        verdict=f"chosen completions became less likely by {fall:.3g} nats ({share:.0%}), rejected ones by {other:.3g}"
        + ("" if is_much else ": usual for DPO, which looks at the difference alone"),
        evidence=(
            Evidence(metric=CHOSEN, steps=chosen.span, value=-fall * beta),
            Evidence(metric=REJECTED, steps=rejected.span, value=-other * beta),
        ),
        cause="chosen and rejected are near-twins, so that what pushes one down pushes the other (displacement)"
        if is_much
        else "probability goes to completions that are not in the data",
        next_action="drop pairs that hardly differ (assent doctor DATA finds them), or add the chosen completion's "
        "likelihood to the loss (losses, with sft of weight 0.1)"
        if is_much
        else "nothing; judge by answers and by held-out accuracy",
        fix=_with_likelihood(case) if is_much else {},
    )


def _with_likelihood(case: Case) -> dict[str, Change]:
    """The same loss of pairs, and a tenth of the chosen completion's likelihood; nothing for losses of rankings."""
    name, options = case.objective.loss or "sigmoid", dict(case.objective.options)
    if name not in PREFERENCE_LOSSES:
        return {}
    options = options or {"beta": case.objective.beta}
    return {"losses": to([{"name": name, "hyperparameters": options}, {"name": "sft", "weight": 0.1}])}


def _together(chosen: Sequence[float], rejected: Sequence[float]) -> bool:
    """Whether the last quarter's chosen fall is more than TOGETHER times the rejected one, by more than chance."""
    pairs = zip(*(ends(values)[1] for values in (chosen, rejected)), strict=True)
    return mean_interval([a - TOGETHER * b for a, b in pairs], confidence=SURE).high < 0


RULE = Rule(
    name="chosen_falls",
    title="the chosen completions become less likely",
    metrics=(CHOSEN, REJECTED, SUM),
    least=12,
    stages=PAIRS,
    check=check,
    causes=("near-twins", "learning rate too high"),
    source="displacement: arXiv:2410.08847 (failures D5); falling log-probabilities of both: people's threads",
)

_STEPS = range(24)
FIRES = example({CHOSEN: [-0.1 * i for i in _STEPS], REJECTED: [-0.12 * i for i in _STEPS],
                 SUM: [-30.0 - i for i in _STEPS]}, stage="dpo", loss_type="sigmoid", beta=0.1)  # fmt: skip
QUIET = example({CHOSEN: [0.02 * i for i in _STEPS], REJECTED: [-0.1 * i for i in _STEPS],
                 SUM: [-30.0 - i for i in _STEPS]}, stage="dpo", loss_type="sigmoid", beta=0.1)  # fmt: skip
