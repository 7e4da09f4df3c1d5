"""assent doctor: what is wrong with a run, data or a policy, and what to change. Torch only with --probe."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from assent.commands.doctor_logs import accepted_in, listed, look, opened, tell
from assent.config.doctor import DoctorConfig
from assent.config.loading import parse_options
from assent.diagnosis.case import Case
from assent.diagnosis.examine import Report
from assent.diagnosis.fix import Applied, changes
from assent.diagnosis.model_rules import model_rules
from assent.diagnosis.opening import is_policy
from assent.errors import UsageError
from assent.pipelines.steps import STEPS
from assent.runs.files import write_text


def doctor(config: DoctorConfig) -> tuple[dict[str, Any], list[str], int]:
    """The document, the same as lines of text, and the exit status."""
    if config.list_rules:
        return listed(config, model_rules)
    accepted = accepted_in(config, model_rules)
    reports = look(config, partial(_opened, config), model_rules)
    document, lines, status = tell(config, reports, accepted)
    if config.apply is not None:
        lines += ["", *_apply(Path(config.apply), config.targets[0], next(iter(reports.values())), document)]
    return document, lines, status


def _opened(config: DoctorConfig, target: str) -> Case:
    if is_policy(Path(target)):
        return _probed_policy(config, target)
    case = opened(config, target)
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
