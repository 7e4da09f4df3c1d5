"""What serves the model computes otherwise than at the release, or than the trainer does (O6 of the failures)."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.drift.findings import drift_in, evidence, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import NotChecked, Rule

NATS = 0.05
"""Mean absolute difference per token, served and computed, that low precision does not explain."""


def check(case: Case) -> Finding | None:
    drift = drift_in(case)
    tested = drift.of_rule("serving_differs")
    if not tested and drift.policy is None:
        raise NotChecked("neither logs nor baseline have log-probabilities or the model's name")
    found = [one for one in tested if one.found]
    policy = drift.policy
    differs = policy is not None and policy["nats_per_token"] > NATS
    if not found and not differs:
        return None
    measured: tuple[Evidence, ...] = ()
    if policy is not None:
        measured = (
            Evidence(metric="served beside the trainer's log-probabilities, nats per token",
                     value=policy["nats_per_token"], expected=f"at most {NATS}"),
            Evidence(metric="nats served for each of the trainer's", value=policy["scale"], expected="1"),
        )  # fmt: skip
    return Finding(
        severity="fault",
        confidence="certain" if differs else "likely",
        verdict="the server's log-probabilities are not the trainer's of the same text"
        if differs
        else "the server's log-probabilities of comparable texts moved"
        if drift.found("serving/logprob")
        else "the logs name another model than at the release",
        evidence=(*measured, *evidence(found)),
        cause="other weights or precision, another chat template, or log-probabilities at a temperature other than 1",
        next_action="assent serve-check MODEL; compare template, dtype and temperature; do not use these "
        "log-probabilities in training before they agree",
    )


RULE = Rule(
    name="serving_differs",
    title="the serving stack differs",
    metrics=(),
    looks_at="logs",
    check=check,
    causes=("another template, precision or weights", "a temperature other than 1"),
    source="Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training (2025); failures O6",
)

FIRES = example("serving/logprob")
QUIET = example(quiet=("serving/logprob",), policy={"nats_per_token": 0.01, "scale": 1.0})
