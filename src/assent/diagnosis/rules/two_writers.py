"""The steps of the log go back and forth: two runs wrote into one file, and no curve of it is a run's."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import Rule

RESUMED = 3
"""A run that resumes goes back once each time; more often it is two."""


def check(case: Case) -> Finding | None:
    if case.rewinds <= RESUMED:
        return None
    return Finding(
        severity="fault",
        confidence="likely",
        verdict=f"the log's steps go back {case.rewinds} times: two runs wrote into one log",
        evidence=(Evidence(metric="steps that go back", value=case.rewinds, expected="0, or once a resume"),),
        cause="a second process was started in the same folder, or each process of one run writes its own lines",
        next_action="start each run again in a folder of its own (--output-dir): figures of this log cannot be told "
        "apart",
    )


RULE = Rule(
    name="two_writers",
    title="two runs wrote into one log",
    metrics=(),
    check=check,
    causes=("two runs in one folder", "all processes of a distributed run log"),
    source="interleaved logs of several ranks in people's threads",
)

FIRES = example({"loss": [0.7, 0.6]}, stage="sft", rewinds=12)
QUIET = example({"loss": [0.7, 0.6]}, stage="sft", rewinds=1)
