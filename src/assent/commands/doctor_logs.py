"""What the doctor does with logs and data, in the standard library and pydantic: the small distribution's part too."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from assent.commands.doctor_bundle import check_place, write_bundle
from assent.config.doctor import LogDoctorConfig
from assent.diagnosis.accepted import read_accepted
from assent.diagnosis.against import differing_metrics, differing_options
from assent.diagnosis.case import Case
from assent.diagnosis.doctor_text import lines_against, lines_of, lines_of_finding, lines_of_rules
from assent.diagnosis.examine import Report, examine, with_data
from assent.diagnosis.finding import at_least
from assent.diagnosis.opening import data_of_run, open_case
from assent.diagnosis.rule import Rule
from assent.diagnosis.rules import all_rules, third_party
from assent.runs.manifest import MANIFEST

Rules = Callable[[], tuple[Rule, ...]]
SHARE = 100
"""A watched run keeps the machine: between two looks is a hundred times what a look took, if that is longer."""
SILENT = 600.0
"""Seconds without a line after which another trainer's run is taken to have ended."""
Answer = tuple[dict[str, Any], list[str], int]
"""The document, the same as lines of text, and the exit status."""


def no_rules() -> tuple[Rule, ...]:
    return ()


def doctor_of_logs(config: LogDoctorConfig) -> Answer:
    """What `assent-doctor` does: no model is loaded, and no option is changed."""
    if config.list_rules:
        return listed(config)
    accepted = accepted_in(config)
    return tell(config, look(config), accepted)


def listed(config: LogDoctorConfig, model_rules: Rules = no_rules) -> Answer:
    rules = _rules(config, model_rules)
    found = [
        {"name": rule.name, "title": rule.title, "stages": sorted(rule.stages), "metrics": list(rule.metrics),
         "looks_at": rule.looks_at, "causes": list(rule.causes), "source": rule.source}
        for rule in rules
    ]  # fmt: skip
    return {"rules": found}, lines_of_rules(rules), 0


def opened(config: LogDoctorConfig, target: str, *, columns: Mapping[str, str] | None = None) -> Case:
    return open_case(target, stage=config.stage, settings=config.settings, against=config.against, columns=columns)


def look(
    config: LogDoctorConfig, opening: Callable[[str], Case] | None = None, model_rules: Rules = no_rules
) -> dict[str, Report]:
    """What the rules say about each target. `opening`: from a target to its case; default: logs and data."""

    if config.bundle is not None:
        check_place(Path(config.bundle))
    of_data: dict[str, Report | str] = {}

    def ask(target: str) -> Report:
        case = opened(config, target) if opening is None else opening(target)
        models = model_rules if case.models is not None else no_rules
        if (Path(target) / MANIFEST).exists() and target not in of_data:  # once: a run in training reads no other rows
            of_data[target] = _data_report(target, config)
        found = of_data.get(target)
        if isinstance(found, str):
            case = replace(case, reading=(*case.reading, found))
        report = examine(case, _rules(config, models, data=case.data is not None))
        return with_data(report, found) if isinstance(found, Report) else report

    reports = {target: ask(target) for target in config.targets}
    return {target: _watch(config, target, report, ask) for target, report in reports.items()}


def _data_report(run: str, config: LogDoctorConfig) -> Report | str:
    """What the rules of data say of the rows that a run trains on; or why they are not asked."""
    rows = data_of_run(run)
    if isinstance(rows, str):
        return rows
    from assent.diagnosis.data_rules import data_rules

    theirs = [rule for rule in third_party(config.rules) if rule.looks_at == "data"]
    return examine(Case(data=rows, source="data"), (*data_rules(), *theirs))


def accepted_in(config: LogDoctorConfig, model_rules: Rules = no_rules) -> dict[str, str]:
    """Reasons by rule. Asked for before anything is looked at: a misspelt rule is an error."""
    if not config.accepted:
        return {}
    return read_accepted(config.accepted, [rule.name for rule in _rules(config, model_rules)])


def tell(config: LogDoctorConfig, reports: Mapping[str, Report], accepted: Mapping[str, str]) -> Answer:
    document: dict[str, Any] = {"fail_on": config.fail_on, "reports": []}
    lines: list[str] = []
    for target, report in reports.items():
        lines += ["", *lines_of(report, name=target, accepted=accepted)]
        looked_at = {"target": target, **about(report.case)}
        document["reports"].append({**looked_at, **report.as_dict(), "accepted": dict(accepted)})
    target, report = next(iter(reports.items()))
    if config.against is not None and report.case.data is None:
        lines += ["", *_against(config.against, report.case, document)]
    if config.bundle is not None:
        lines += ["", *write_bundle(Path(config.bundle), target, report, about(report.case))]
        document["bundle"] = config.bundle
    failed = any(fails(report, config.fail_on, accepted) for report in reports.values())
    return document, lines[1:], int(failed)


def _rules(config: LogDoctorConfig, model_rules: Rules, *, data: bool = True) -> tuple[Rule, ...]:
    """The rules of logs, those of models, and those of data if they are wanted: they take a moment to import."""
    if not data:
        return (*all_rules(), *model_rules(), *third_party(config.rules))
    from assent.diagnosis.data_rules import data_rules

    return (*all_rules(), *data_rules(), *model_rules(), *third_party(config.rules))


def fails(report: Report, level: str, accepted: Mapping[str, str]) -> bool:
    """Whether a finding that nobody accepted is as grave as `level`."""
    open_findings = [finding for finding in report.findings if finding.rule not in accepted]
    return level != "never" and any(at_least(finding.severity, level) for finding in open_findings)


def about(case: Case) -> dict[str, Any]:
    """What was looked at."""
    return {
        "source": case.source,
        "stage": case.stage,
        "status": case.status,
        "steps": case.steps,
        "planned_steps": case.planned_steps,
        "objective": {
            "loss": case.objective.loss,
            "beta": case.objective.beta,
            "label_smoothing": case.objective.label_smoothing,
            "known_by": case.objective.how,
        },
        "metrics": sorted(case.series),
        "reading": list(case.reading),
        **({} if case.models is None else {"measured": case.models.as_dict()}),
    }


def _watch(config: LogDoctorConfig, target: str, report: Report, ask: Callable[[str], Report]) -> Report:
    """Looks again until the run ends; prints each new finding on stderr."""
    told: set[str] = set()
    spent = 0.0
    while config.watch:
        for finding in report.findings:
            if finding.rule not in told:
                told.add(finding.rule)
                print("\n".join(lines_of_finding(finding, report.case)), file=sys.stderr, flush=True)
        if not _is_live(report.case):
            return report
        time.sleep(max(config.refresh_seconds, SHARE * spent))
        began = time.process_time()
        report = ask(target)
        spent = time.process_time() - began
    return report


def _is_live(case: Case) -> bool:
    """Whether the run goes on. Another trainer's log does not say so: as long as it is written."""
    if case.status is not None:
        return case.status == "running"
    return case.silent_seconds is not None and case.silent_seconds < SILENT


def _against(good_run: str, case: Case, document: dict[str, Any]) -> list[str]:
    good = open_case(good_run)
    document["against"] = {
        "target": good_run,
        "options": {name: list(pair) for name, pair in differing_options(case, good).items()},
        "metrics": [
            {"metric": one.metric, "here": one.here, "there": one.there} for one in differing_metrics(case, good)
        ],
    }
    return lines_against(case, good, good_run)
