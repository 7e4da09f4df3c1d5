"""The implicit rewards are β times the log-probabilities themselves: no reference was subtracted."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.objective import has_no_reference
from assent.diagnosis.rule import DPO, NotChecked, Rule

REWARD, SUM = "rewards/chosen", "logps/chosen"


def check(case: Case) -> Finding | None:
    if not has_no_reference(case.series):
        return None
    if case.objective.needs_reference is False and case.objective.how == "configuration":
        return None
    ratio = case[REWARD].first / case[SUM].first
    is_stated = case.objective.how == "configuration"
    if not is_stated:
        raise NotChecked("rewards are β times log-probabilities: by design in SimPO, ORPO and CPO, a missing reference "
                         "in DPO; loss_type (--settings) decides")  # fmt: skip
    return Finding(
        severity="fatal",
        confidence="certain",
        verdict=f"the loss has no reference: the implicit reward is {ratio:.3g} times the log-probability, from the "
        "first step on",
        evidence=(
            Evidence(metric=REWARD, steps=case[REWARD].span, value=case[REWARD].first, expected="0 at the start"),
            Evidence(metric=SUM, steps=case[SUM].span, value=case[SUM].first),
        ),
        cause="the reference's log-probabilities are 0 or missing, so that the margin follows length",
        next_action="give the trainer a reference (--reference; TRL: ref_model), which is the model that training "
        "starts from. A loss without one is simpo or orpo: then name it as such",
    )


RULE = Rule(
    name="no_reference",
    title="the loss lacks its reference",
    metrics=(REWARD, SUM, "rewards/rejected", "logps/rejected"),
    least=3,
    stages=DPO,
    check=check,
    causes=("reference log-probabilities of 0", "a reference model that was not passed on"),
    source="failures D2; course case: the loss lacks the reference",
)

_SUMS = [-40.0, -55.0, -38.0, -61.0]
_REWARDS = {"rewards/chosen": [0.1 * s for s in _SUMS], "rewards/rejected": [0.1 * s - 0.5 for s in _SUMS]}
_LOGPS = {"logps/chosen": _SUMS, "logps/rejected": [s - 5.0 for s in _SUMS]}
FIRES = example({**_REWARDS, **_LOGPS}, stage="dpo", loss_type="sigmoid", beta=0.1)
QUIET = example({**_LOGPS, "rewards/chosen": [0.0, 0.1, 0.1, 0.2], "rewards/rejected": [0.0, -0.1, -0.2, -0.1]},
                stage="dpo", loss_type="sigmoid", beta=0.1)  # fmt: skip
