"""GRPO's loss is next to 0: by construction, and healthy."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import Rule

LOSS, GRADIENT, SPREAD = "loss", "grad_norm", "objective/scores_std"
NEAR = 1e-2


def check(case: Case) -> Finding | None:
    loss = case[LOSS]
    if max(map(abs, loss.values)) > NEAR or case[GRADIENT].last < 1e-8:
        return None
    return Finding(
        severity="info",
        confidence="certain",
        verdict=f"the loss is next to 0 (at most {max(map(abs, loss.values)):.1g}), as it must be: advantages of a "
        "prompt's answers sum to 0",
        evidence=(
            Evidence(metric=LOSS, steps=loss.span, value=loss.last, expected="about 0"),
            Evidence(metric=GRADIENT, steps=case[GRADIENT].span, value=case[GRADIENT].last, expected="above 0"),
        ),
        cause="with one update a round the ratio is 1, and the loss is the mean of the advantages; its gradient is "
        "not 0",
        next_action="nothing; look at the reward and at the KL, not at the loss",
    )


RULE = Rule(
    name="grpo_loss_zero",
    title="GRPO's loss is next to 0 (healthy)",
    metrics=(LOSS, GRADIENT),
    stages=frozenset({"grpo", "rloo"}),
    check=check,
    causes=("advantages that are centred",),
    source="people's threads: loss 0 in GRPO",
)

FIRES = example({LOSS: [0.0, 1e-4, -2e-4], GRADIENT: [0.5, 0.6, 0.5]}, stage="grpo")
QUIET = example({LOSS: [0.3, 0.2, 0.25], GRADIENT: [0.5, 0.6, 0.5]}, stage="grpo")
