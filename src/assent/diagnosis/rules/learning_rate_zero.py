"""The learning rate was 0 at every step: nothing could be learned."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import Rule

RATE = "learning_rate"
USUAL = {"sft": 1e-5, "reward": 1e-5, "dpo": 1e-6, "kto": 1e-6, "online-dpo": 1e-6}
"""Rates to begin with for a model of billions of weights, by command; the others 1e-6 too."""


def check(case: Case) -> Finding | None:
    rates = case[RATE]
    if any(rates.values):
        return None
    rate = USUAL.get(case.stage or "", 1e-6)
    return Finding(
        severity="fatal",
        confidence="certain",
        verdict=f"the learning rate was 0 at all {len(rates)} logged steps, so that no weight has changed",
        evidence=(Evidence(metric=RATE, steps=rates.span, value=0.0, expected="above 0"),),
        cause="the rate is set to 0, or the schedule counts more warm-up steps than the run has",
        next_action=f"set --learning-rate {rate:g} to begin with, and let the warm-up be shorter than the run "
        "(--warmup-ratio 0.05)",
        fix={"learning_rate": to(rate), "warmup_ratio": to(0.05)},
    )


RULE = Rule(
    name="learning_rate_zero",
    title="the learning rate is 0 throughout",
    metrics=(RATE,),
    least=3,
    check=check,
    causes=("learning_rate 0", "warm-up longer than the run"),
    source="people's threads: a loss that stays where it is",
)

FIRES = example({RATE: [0.0] * 4, "loss": [0.69] * 4}, stage="dpo")
QUIET = example({RATE: [0.0, 1e-6, 5e-7, 0.0], "loss": [0.69] * 4}, stage="dpo")
