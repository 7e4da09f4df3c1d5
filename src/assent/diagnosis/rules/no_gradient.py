"""The gradient is 0, step after step: nothing that is trained has an effect on the loss."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import Rule

GRADIENT, SPREAD = "grad_norm", "objective/scores_std"
STEPS = 5
TINY = 1e-10


def check(case: Case) -> Finding | None:
    last = case[GRADIENT].tail(STEPS)
    if max(map(abs, last.values)) > TINY:
        return None
    spread = case.find(SPREAD)
    if spread is not None and max(spread.tail(STEPS).values) < 1e-6:
        return None  # rewards that do not differ give no gradient: zero_advantage says so
    evidence = [Evidence(metric=GRADIENT, steps=last.span, value=max(last.values), expected="above 0")]
    if spread is not None:
        evidence.append(Evidence(metric=SPREAD, steps=spread.tail(STEPS).span, value=spread.last))
    differ = " although rewards differ" if spread is not None else ""
    return Finding(
        severity="fatal",
        confidence="certain",
        verdict=f"the gradient was 0 at the last {STEPS} logged steps{differ}: nothing is learned",
        evidence=tuple(evidence),
        cause="no trained weight has a part in the loss: weights frozen, an adapter that is off, or a loss computed "
        "without gradient",
        next_action="count the weights that require a gradient (PEFT: model.print_trainable_parameters()). If there "
        "are none, unfreeze them or switch the adapter on; if there are some, look for torch.no_grad() or .detach() "
        "around the loss",
    )


RULE = Rule(
    name="no_gradient",
    title="the gradient is 0",
    metrics=(GRADIENT,),
    also=(SPREAD,),
    least=STEPS,
    window=STEPS,
    check=check,
    causes=("frozen weights", "gradient checkpointing without inputs that require a gradient", "adapter switched off"),
    source="a public GRPO log with gradient norm 0 at a reward deviation of 0.44",
)

FIRES = example({GRADIENT: [0.0] * 6, SPREAD: [0.44] * 6}, stage="grpo")
QUIET = example({GRADIENT: [0.9, 0.0, 0.0, 0.0, 0.2], SPREAD: [0.44] * 5}, stage="grpo")
