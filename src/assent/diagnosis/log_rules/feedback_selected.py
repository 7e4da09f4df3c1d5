"""Who leaves feedback depends on the answer otherwise than at the release, or is not that of a holdout (O5)."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.drift.findings import drift_in, evidence, example, moved
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import Rule


def check(case: Case) -> Finding | None:
    tested = moved(case, "feedback_selected", needs="answers with feedback beside answers without")
    if not tested:
        return None
    beside = drift_in(case).found("rating/holdout")
    return Finding(
        severity="warning",
        confidence="certain" if beside else "likely",
        verdict="feedback that users chose to give differs from that of the holdout"
        if beside
        else "whether people leave feedback depends on the answer otherwise than at the release",
        evidence=evidence(tested),
        cause="the button moved, an incentive, or annoyed users alone still answer",
        next_action="do not read the rate of likes as quality; ask a random slice of users whatever the answer was "
        "(`holdout`), or weight feedback by its probability",
    )


RULE = Rule(
    name="feedback_selected",
    title="feedback is selected",
    metrics=(),
    looks_at="logs",
    check=check,
    causes=("another form of asking", "annoyed users alone answer"),
    source="Swaminathan and Joachims, arXiv:1502.02362; failures O5",
)

FIRES = example("rating/asked", difference=-0.3, share=None)
QUIET = example(quiet=("rating/asked",), share=None)
