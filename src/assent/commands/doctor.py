"""assent doctor: what is wrong with a run, data or a policy, and what to change. Torch only with --probe."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from assent.commands.doctor_bundle import write_bundle
from assent.config.doctor import DoctorConfig
from assent.config.loading import parse_options
from assent.diagnosis.accepted import read_accepted
from assent.diagnosis.against import differing_metrics, differing_options
from assent.diagnosis.case import Case
from assent.diagnosis.doctor_text import lines_against, lines_of, lines_of_finding, lines_of_rules
from assent.diagnosis.examine import Report, examine
from assent.diagnosis.finding import at_least
from assent.diagnosis.fix import Applied, changes
from assent.diagnosis.opening import is_policy, open_case
from assent.diagnosis.rule import Rule
from assent.diagnosis.rules import all_rules, third_party
from assent.errors import UsageError
from assent.pipelines.steps import STEPS
from assent.runs.files import write_text


def doctor(config: DoctorConfig) -> tuple[dict[str, Any], list[str], int]:
    """The document, the same as lines of text, and the exit status."""
    rules = _rules(config) if config.list_rules or config.accepted else ()
    if config.list_rules:
        listed = [
            {"name": rule.name, "title": rule.title, "stages": sorted(rule.stages), "metrics": list(rule.metrics),
             "looks_at": rule.looks_at, "causes": list(rule.causes), "source": rule.source}
            for rule in rules
        ]  # fmt: skip
        return {"rules": listed}, lines_of_rules(rules), 0
    accepted = read_accepted(config.accepted, [rule.name for rule in rules]) if config.accepted else {}
    reports = {target: _asked(config, _opened(config, target)) for target in config.targets}
    if config.watch:
        reports = {target: _watch(config, target, report) for target, report in reports.items()}
    document: dict[str, Any] = {"fail_on": config.fail_on, "reports": []}
    lines: list[str] = []
    for target, report in reports.items():
        lines += ["", *lines_of(report, name=target, accepted=accepted)]
        document["reports"].append({"target": target, **about(report.case), **report.as_dict(), "accepted": accepted})
    if config.against is not None and next(iter(reports.values())).case.data is None:
        lines += ["", *_against(config.against, next(iter(reports.values())).case, document)]
    if config.apply is not None:
        lines += ["", *_apply(Path(config.apply), config.targets[0], next(iter(reports.values())), document)]
    if config.bundle is not None:
        target, report = next(iter(reports.items()))
        lines += ["", *write_bundle(Path(config.bundle), target, report, about(report.case))]
        document["bundle"] = config.bundle
    failed = any(fails(report, config.fail_on, accepted) for report in reports.values())
    return document, lines[1:], int(failed)


def _rules(config: DoctorConfig, *, data: bool = True, models: bool = True) -> tuple[Rule, ...]:
    """The rules of logs, and those of data and of models, which take numpy, if they are wanted."""
    rules = [*all_rules()]
    if data:
        from assent.diagnosis.data_rules import data_rules

        rules += data_rules()
    if models:
        from assent.diagnosis.model_rules import model_rules

        rules += model_rules()
    return (*rules, *third_party(config.rules))


def _asked(config: DoctorConfig, case: Case) -> Report:
    return examine(case, _rules(config, data=case.data is not None, models=case.models is not None))


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


def _opened(config: DoctorConfig, target: str) -> Case:
    if is_policy(Path(target)):
        return _probed_policy(config, target)
    case = open_case(target, stage=config.stage, settings=config.settings, against=config.against)
    if not config.probe:
        return case
    if case.data is None or config.model is None:
        raise UsageError(
            "--probe has nothing to load",
            got=target + ("" if case.data is None else " without --model"),
            expected="a policy's folder (of a run: RUN/model), or a file of data and the policy in --model",
        )
    if config.prompts is not None:
        raise UsageError("--prompts has no effect on data, which have their own", fix="leave --prompts out")
    from assent.commands.doctor_probe import distance_of

    return replace(case, models=distance_of(config.model, config, case.data.dataset))


def _probed_policy(config: DoctorConfig, target: str) -> Case:
    if not config.probe:
        raise UsageError(f"{target} is a model: reading it means loading it", fix="give --probe")
    if config.model is not None:
        raise UsageError("--model has no effect beside a policy", fix="leave --model out, or give a file of data")
    from assent.commands.doctor_probe import behaviour_of
    from assent.data.loading import load_groups

    prompts = None if config.prompts is None else load_groups(config.prompts)
    return Case(models=behaviour_of(target, config, prompts), source="model")


def _watch(config: DoctorConfig, target: str, report: Report) -> Report:
    """Looks again until the run ends; prints each new finding on stderr."""
    told: set[str] = set()
    while True:
        for finding in report.findings:
            if finding.rule not in told:
                told.add(finding.rule)
                print("\n".join(lines_of_finding(finding, report.case)), file=sys.stderr, flush=True)
        if report.case.status != "running":
            return report
        time.sleep(config.refresh_seconds)
        report = _asked(config, _opened(config, target))


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


def _apply(path: Path, target: str, report: Report, document: dict[str, Any]) -> list[str]:
    """Writes the run's configuration with the changes; they are checked as the command would check them."""
    case = report.case
    if case.source != "assent" or case.stage not in STEPS:
        raise UsageError(
            f"--apply needs the configuration of a run of ours, and {target} is a log of {case.source}",
            fix="leave --apply out, and make the changes that are printed",
        )
    made = changes(case.config, report.findings)
    if not made:
        document["applied"] = []
        return [f"{path} is not written: no finding names a change of the configuration"]
    options = fixed_options(case, made)
    parse_options(STEPS[case.stage].config_class(), options, where=f" of {target}, changed")
    text = "".join(f"# {one.text()} ({one.rule})\n" for one in made)
    write_text(path, text + yaml.safe_dump(options, sort_keys=False, allow_unicode=True), what=str(path))
    document["applied"] = [
        {"option": one.option, "before": one.before, "after": one.after, "rule": one.rule} for one in made
    ]
    lines = [f"{path}: the run's configuration with {len(made)} changed: assent {case.stage} --config {path}"]
    return lines + [f"  {one.text()} ({one.rule})" for one in made]


def fixed_options(case: Case, made: list[Applied]) -> dict[str, Any]:
    """The options that the run was given, with the changes, for a folder of their own."""
    assert case.stage is not None
    options = {}
    for name, field in STEPS[case.stage].config_class().model_fields.items():
        is_given = field.is_required() or case.config.get(name) != field.get_default(call_default_factory=True)
        if name in case.config and is_given:
            options[name] = case.config[name]
    options.update({one.option: one.after for one in made})
    if any(one.option == "losses" for one in made):  # each entry has a name and hyperparameters of its own
        options = {
            name: value for name, value in options.items() if name not in ("loss_type", "beta", "hyperparameters")
        }
    return {**options, "output_dir": f"{case.config['output_dir']}-changed"}
