"""What serves the model computes otherwise than at the release, or than the trainer does (O6 of the failures)."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.drift.findings import drift_in, evidence, example
from assent.diagnosis.drift.signals import NATS, agrees
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import NotChecked, Rule

LOGPROB = "serving/logprob"


def check(case: Case) -> Finding | None:
    drift = drift_in(case)
    tested = drift.of_rule("serving_differs")
    if not tested and drift.policy is None:
        raise NotChecked("neither logs nor baseline have log-probabilities or the model's name")
    policy = drift.policy
    differs = policy is not None and not agrees(policy)
    # where the trainer's own were computed they decide, and texts of the release need not be compared
    found = [one for one in tested if one.found and not (agrees(policy) and one.signal.name == LOGPROB)]
    if not found and not differs:
        return None
    # the text alone says how likely it is; on prompts that are new the same model may be less sure of it
    may_be_prompts = (
        not differs and all(one.signal.name == LOGPROB for one in found) and drift.has_moved("prompts_moved")
    )
    measured: tuple[Evidence, ...] = ()
    if policy is not None:
        measured = (
            Evidence(metric="served beside the trainer's log-probabilities, nats per token",
                     value=policy["nats_per_token"], expected=f"at most {NATS}"),
            Evidence(metric="nats served for each of the trainer's", value=policy["scale"], expected="1"),
        )  # fmt: skip
    return Finding(
        severity="warning" if may_be_prompts else "fault",
        confidence="certain" if differs else "possible" if may_be_prompts else "likely",
        verdict="the server's log-probabilities are not the trainer's of the same text"
        if differs
        else "the server's log-probabilities of comparable texts moved"
        if any(one.signal.name == LOGPROB for one in found)
        else "the logs name another model than at the release",
        evidence=(*measured, *evidence(found)),
        cause="other weights or precision, another chat template, or log-probabilities at a temperature other than 1"
        + (
            ", or the prompts that moved: of answers to new ones the same model may be less sure"
            if may_be_prompts
            else ""
        ),
        next_action=(
            "assent monitor --policy MODEL tells them apart; " if may_be_prompts else "assent serve-check MODEL; "
        )
        + "compare template, dtype and temperature; do not use these log-probabilities in training before they agree",
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

FIRES = example(LOGPROB)
QUIET = example(LOGPROB, policy={"nats_per_token": 0.01, "scale": 1.0})
