"""The KL to the reference is 0 while the policy changes: the reference changes with it."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import SAMPLED, Rule

KL, DISTANCE = "objective/kl_k3 or objective/kl_k2 or objective/kl or objective/kl_per_token", "policy/approxkl_avg"
ZERO = 1e-5
MOVED = 1e-4
"""Distance between the policy and its older self within a round, in nats per token."""


def check(case: Case) -> Finding | None:
    kl, distance = case[KL], case[DISTANCE]
    largest, moved = max(map(abs, kl.values)), sum(distance.values)
    if largest > ZERO or moved < MOVED or any(value < 0 for value in distance.values):
        return None
    return Finding(
        severity="fatal",
        confidence="certain",
        verdict="the KL to the reference is 0 in every round although the policy changes: the reference changes with "
        "it",
        evidence=(
            Evidence(metric=case.named(KL), steps=kl.span, value=largest, expected="above 0 after the first round"),
            Evidence(metric=DISTANCE, steps=distance.span, value=distance.last),
        ),
        cause="policy and reference are the same object, or an adapter is not switched off for the reference",
        next_action="load the reference from its folder a second time instead of handing the policy over (with an "
        "adapter: read the reference with the adapter off), and start again from the beginning",
    )


RULE = Rule(
    name="kl_always_zero",
    title="the KL is 0 although the policy changes",
    metrics=(KL, DISTANCE),
    least=5,
    stages=SAMPLED,
    check=check,
    causes=("the reference is the policy", "adapter on in the reference"),
    source="failures P15",
)

FIRES = example({"objective/kl_k3": [0.0] * 6, DISTANCE: [0.002] * 6}, stage="ppo")
QUIET = example({"objective/kl_k3": [0.0, 0.01, 0.1, 0.2, 0.2, 0.3], DISTANCE: [0.002] * 6}, stage="ppo")
