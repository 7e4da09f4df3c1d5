"""The run has not ended, and nobody writes its log any more: it crashed, was killed, or hangs."""

from __future__ import annotations

from statistics import median

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import NotChecked, Rule

PATIENCE = 20.0
"""Steps' worth of silence."""
LEAST_SECONDS = 600.0


def check(case: Case) -> Finding | None:
    if case.source != "assent" or case.status is None:
        raise NotChecked("the log does not say whether the run has ended")
    if case.status != "running":
        return None
    silent = case.silent_seconds or 0.0
    planned = f" of {case.planned_steps}" if case.planned_steps else ""
    evidence = (Evidence(metric="seconds since the last line", value=silent),)
    if case.is_alive is False:
        return Finding(
            severity="fault",
            confidence="certain",
            verdict=f"the run ended after step {case.steps}{planned} without finishing: it crashed or was killed",
            evidence=evidence,
            cause="the process is gone and left no end mark; its last words are on its terminal, or in the system's "
            "log where memory ran out",
            next_action="repeat the command: it resumes from the newest checkpoint",
        )
    if silent < max(LEAST_SECONDS, PATIENCE * _seconds_per_line(case)):
        return None
    return Finding(
        severity="fault",
        confidence="likely" if case.is_alive else "possible",
        verdict=f"the run has written nothing for {silent / 60:.0f} minutes after step {case.steps}{planned}: it hangs",
        evidence=evidence,
        cause="a process waits for another one, for a reward's server, or for the disk",
        next_action="look at the process (py-spy dump --pid PID), then end it and repeat the command: it resumes",
    )


def _seconds_per_line(case: Case) -> float:
    times = case.find("cost/seconds")
    if times is None or len(times) < 3:
        return LEAST_SECONDS
    return median(after - before for before, after in zip(times.values, times.values[1:], strict=False))


RULE = Rule(
    name="unfinished",
    title="the run crashed, was killed, or hangs",
    metrics=(),
    check=check,
    causes=("killed, for lack of memory among others", "an error", "processes that wait for each other"),
    source="the run folder's lock and the age of its last line",
)

FIRES = example({"loss": [0.7, 0.6]}, stage="sft", status="running", is_alive=False, silent_seconds=7200.0)
QUIET = example({"loss": [0.7, 0.6]}, stage="sft", status="running", is_alive=True, silent_seconds=20.0)
