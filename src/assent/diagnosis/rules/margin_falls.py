"""The margin goes below 0 in training: the run learns to prefer the rejected completions."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.objective import may_lack_reference
from assent.diagnosis.rule import DPO, REWARD, NotChecked, Rule
from assent.statistics.small import ends, fmean, shift

MARGIN = "rewards/margins or margin"


def check(case: Case) -> Finding | None:
    if case.objective.loss in ("discopop", "several") or case.objective.needs_reference is False:
        return None  # discopop lowers the margin at first by design; without a reference a margin starts anywhere
    margins = case[MARGIN]
    if case.objective.how != "configuration" and margins.first < 0 and may_lack_reference(case.series):
        raise NotChecked("the loss may have no reference, so that a margin starts anywhere; loss_type (--settings)")
    _, last = ends(margins.values)
    moved = shift(margins.values)
    if moved.high >= 0 or fmean(last) + (moved.high - moved.value) >= 0:
        return None
    return Finding(
        severity="fault",
        confidence="certain",
        verdict="the margin falls below 0 in training: the model learns to prefer the rejected completions",
        evidence=(Evidence(metric=case.named(MARGIN), steps=margins.tail(len(last)).span, value=fmean(last),
                           expected="above 0 and rising"),),
        cause="the loss has the wrong sign, or its chosen and rejected inputs are exchanged",
        next_action="compute the loss of one row by hand (assent explain). If the trainer's has the opposite sign, "
        "mend the trainer; if it is the same, exchange the file's columns (chosen and rejected)",
    )  # fmt: skip


RULE = Rule(
    name="margin_falls",
    title="the training margin falls below 0",
    metrics=(MARGIN,),
    least=12,
    stages=DPO | REWARD,
    check=check,
    causes=("sign of the loss", "chosen and rejected exchanged between the loss and its log"),
    source="course case: logged ratios of .2 and .8 prefer the rejected one (failures §1)",
)

FIRES = example({"rewards/margins": [-0.1 * i + 0.02 * (i % 3) for i in range(16)]}, stage="dpo")
QUIET = example({"rewards/margins": [0.05, -0.05] * 8}, stage="dpo")
