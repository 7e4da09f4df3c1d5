"""The AI judge decides otherwise than at the release about comparable answers (O4 of the failures)."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.drift.findings import drift_in, evidence, example, moved
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import Rule


def check(case: Case) -> Finding | None:
    tested = moved(case, "judge_changed", needs="verdicts of a judge", beside=("prompts_moved", "behaviour_moved"))
    if not tested:
        return None
    certain = drift_in(case).found("judge/anchors")
    return Finding(
        severity="fault",
        confidence="certain" if certain else "likely",
        verdict="the judge no longer decides as at the release"
        + (", not even about fixed questions with fixed answers" if certain else " about comparable answers"),
        evidence=evidence(tested),
        cause="another version of the judge's model behind the same name, or another rubric",
        next_action="pin the judge's version; judge the release's answers again before you compare verdicts",
    )


RULE = Rule(
    name="judge_changed",
    title="the judge has changed",
    metrics=(),
    looks_at="logs",
    check=check,
    causes=("another version of the judge", "another rubric"),
    source="Chen, Zaharia and Zou, arXiv:2307.09009; failures O4",
)

FIRES = example("judge/level", share=0.3)
QUIET = example(quiet=("judge/level", "judge/anchors"))
