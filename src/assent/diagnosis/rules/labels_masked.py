"""Every label is masked: the log-probabilities, or the loss of SFT, are exactly 0."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import DPO, SFT, THUMBS, NotChecked, Rule

SUMS = ("logps/chosen", "logps/rejected", "eval_logps/chosen", "eval_logps/rejected")


def check(case: Case) -> Finding | None:
    names = ("loss",) if case.stage == "sft" else SUMS
    there = [name for name in names if name in case.series]
    if not there:
        raise NotChecked("not logged: logps/chosen, logps/rejected")
    empty = next((name for name in there if not any(case[name].values)), None)
    if empty is None:
        return None
    return Finding(
        severity="fatal",
        confidence="certain",
        verdict=f"{empty} is exactly 0 at every step: no token of the completions counts",
        evidence=(Evidence(metric=empty, steps=case[empty].span, value=0.0, expected="below 0" if "logps" in empty else
                           "above 0"),),
        cause="every label is masked: the template marks no assistant turn, the response template is not found, or "
        "max_length cuts before the completion begins",
        next_action="look at a row as the model reads it (assent data show FILE --model MODEL): its completion must be "
        "in colour. If it is not, raise --max-length above the prompt's length, or mend the chat template's mask",
    )  # fmt: skip


RULE = Rule(
    name="labels_masked",
    title="all labels are masked",
    metrics=("loss or logps/chosen or eval_logps/chosen",),
    least=3,
    stages=SFT | DPO | THUMBS,
    check=check,
    causes=("response template not found", "prompt longer than max_length", "assistant mask of the chat template"),
    source="people's threads: loss 0 from the first step",
)

FIRES = example({"loss": [0.6931] * 4, "logps/chosen": [0.0] * 4, "logps/rejected": [0.0] * 4}, stage="dpo")
QUIET = example({"loss": [0.6931] * 4, "logps/chosen": [-9.0] * 4, "logps/rejected": [-8.0] * 4}, stage="dpo")
