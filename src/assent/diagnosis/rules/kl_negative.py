"""The KL to the reference is negative by more than chance: samples and log-probabilities are of two distributions."""

from __future__ import annotations

import math

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import SAMPLED, Rule
from assent.statistics.small import fmean

KL, ERROR, K3 = "objective/kl", "objective/kl_se", "objective/kl_k3"
LOWEST = -1.0
"""Mean KL in nats below which TRL warns."""
ERRORS = 5.0
"""Standard errors below 0 of the mean over the window."""
WINDOW = 10


def check(case: Case) -> Finding | None:
    k3 = case.find(K3)
    if k3 is not None and min(k3.values) < -1e-4:
        return _finding(K3, case, min(k3.values), "k3 is never negative, so its formula is wrong", certain=True)
    kl = case[KL].tail(WINDOW)
    mean = fmean(kl.values)
    errors = case.find(ERROR)
    if errors is not None:
        own = errors.tail(WINDOW).values
        error = math.sqrt(math.fsum(value * value for value in own)) / len(own)
        if mean >= -max(ERRORS * error, 0.05):
            return None
    elif mean >= LOWEST:
        return None
    return _finding(
        KL, case, mean, f"the KL to the reference is {mean:.2g} nats on average, below 0 by more than chance"
    )


def _finding(metric: str, case: Case, value: float, verdict: str, *, certain: bool = False) -> Finding:
    return Finding(
        severity="fault",
        confidence="certain" if certain else "likely",
        verdict=verdict,
        evidence=(Evidence(metric=metric, steps=case[metric].tail(WINDOW).span, value=value, expected="at least 0"),),
        cause="answers are not sampled from the policy that is scored: top-k, top-p, a least length, another "
        "temperature, or padding that counts",
        next_action="sample with --temperature 1, without top-k, top-p or a least length, and score exactly the tokens "
        "that were sampled; then the mean KL is above 0",
        fix={"temperature": to(1.0)},
    )


RULE = Rule(
    name="kl_negative",
    title="the KL to the reference is negative",
    metrics=(KL,),
    also=(ERROR, K3),
    least=WINDOW,
    window=WINDOW,
    stages=SAMPLED,
    check=check,
    causes=("top-k or top-p in sampling", "min_length", "temperature of sampling and scoring differ", "padding"),
    source="TRL's warning on a negative KL (failures P4)",
)

FIRES = example({KL: [-2.0 - 0.1 * i for i in range(12)], ERROR: [0.2] * 12}, stage="ppo")
QUIET = example({KL: [0.1, -0.2, 0.0, -0.1, 0.2, -0.3, 0.1, 0.0, -0.1, 0.2, 0.1], ERROR: [0.2] * 11}, stage="ppo")
