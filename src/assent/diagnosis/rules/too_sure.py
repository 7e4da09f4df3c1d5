"""The held-out loss is above that of a coin although the ranking is better than one: the scores are too sure."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.objective import LN2
from assent.diagnosis.rule import DPO, REWARD, NotChecked, Rule
from assent.diagnosis.rules import held_out_rises, memorises_epochs

LOSS, ACCURACY = "eval_loss", "eval_accuracy or eval_rewards/accuracies"
LOGISTIC = ("bradley_terry", "sigmoid")


def check(case: Case) -> Finding | None:
    if case.option("loss_type", LOGISTIC[0]) not in LOGISTIC or case.objective.needs_reference is False:
        raise NotChecked("only a logistic loss has a coin's value to compare with")
    for other in (memorises_epochs, held_out_rises):
        if other.RULE.missing(case) is None and _finds(other.check, case):
            raise NotChecked(f"{other.RULE.name} has found the same")
    loss, accuracy = case[LOSS].last, case[ACCURACY].last
    if loss < 1.05 * LN2 or accuracy < 0.6:
        return None
    return Finding(
        severity="fault",
        confidence="certain",
        verdict=f"the scores are too sure: {accuracy:.0%} of the held-out pairs are right, and the loss of {loss:.3g} "
        "is above a coin's",
        evidence=(
            Evidence(metric=LOSS, steps=(case[LOSS].steps[-1],) * 2, value=loss, expected=f"below {LN2:.4g}"),
            Evidence(metric=case.named(ACCURACY), steps=(case[ACCURACY].steps[-1],) * 2, value=accuracy),
        ),
        cause="too many passes over the pairs, or too high a learning rate: differences grow beyond what they mean",
        next_action="train for one epoch, smooth the labels (label_smoothing 0.1), or divide the scores by a "
        "temperature fitted on held-out pairs",
        fix={"num_train_epochs": to(1.0)},
    )


def _finds(check: object, case: Case) -> bool:
    try:
        return check(case) is not None  # type: ignore[operator]
    except NotChecked:
        return False


RULE = Rule(
    name="too_sure",
    title="the scores are too sure of themselves",
    metrics=(LOSS, ACCURACY),
    stages=REWARD | DPO,
    check=check,
    causes=("overfitting", "scores scaled up"),
    source="calibration errors of .086 to .183 are published: arXiv:2409.09603 (failures R4)",
)

FIRES = example({LOSS: {50: 1.4}, "eval_accuracy": {50: 0.72}}, stage="reward", num_train_epochs=8.0)
QUIET = example({LOSS: {50: 0.6}, "eval_accuracy": {50: 0.72}}, stage="reward")
