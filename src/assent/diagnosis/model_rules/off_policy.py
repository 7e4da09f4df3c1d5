"""The file's answers are far from what the policy says: it learns about answers that it never gives."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.probes import Distance
from assent.diagnosis.rule import NotChecked, Rule
from assent.statistics.small import difference, fmean

FAR = 1.0
"""Nats per token below the policy's own answers (failures D13)."""


def check(case: Case) -> Finding | None:
    found = case.models
    if not isinstance(found, Distance):
        raise NotChecked("needs data, and --model, the policy that is to be trained")
    if min(len(found.better), len(found.drawn)) < 4:
        raise NotChecked(f"too few prompts: {len(found.better)} of 4")
    gap = difference(found.drawn, found.better)
    if gap.low <= FAR:
        return None
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"the better answers are {gap.value:.1f} [{gap.low:.1f}, {gap.high:.1f}] nats per token "
        f"less likely to the "
        "policy than its own answers: the data are off-policy",
        evidence=(
            Evidence(metric="log-probability per token, better answers", value=fmean(found.better),
                     expected=f"at least {fmean(found.drawn) - FAR:.2f}"),
            *([Evidence(metric="log-probability per token, worse answers", value=fmean(found.worse))]
              if found.worse else []),
            Evidence(metric="log-probability per token, its own answers", value=fmean(found.drawn)),
        ),
        cause="another model, or people, wrote the answers; or the policy is asked with another chat template",
        next_action="train the policy on the better answers first (assent sft), or sample its own "
        "answers and have them "
        "compared (assent sample; assent online-dpo): DPO moves probability among answers that the policy gives",
    )  # fmt: skip


RULE = Rule(
    name="off_policy",
    title="answers that the policy would not give",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("answers of another model", "another chat template"),
    source="Tajwar et al., arXiv:2404.14367 (failures D13)",
)

_OWN = [-0.9, -1.1, -1.0, -0.8, -1.2, -1.0, -0.95, -1.05]
FIRES = Case(models=Distance(better=[value - 2 for value in _OWN], worse=[value - 2.2 for value in _OWN], drawn=_OWN))
QUIET = Case(models=Distance(better=[value - 0.3 for value in _OWN], worse=[value - 0.4 for value in _OWN], drawn=_OWN))
