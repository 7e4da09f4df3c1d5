"""assent doctor: what is wrong with a run, data or a policy, and what to change. Torch only with --probe."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from assent.commands.doctor_logs import accepted_in, listed, look, opened, tell
from assent.config.doctor import DoctorConfig
from assent.config.loading import parse_options
from assent.diagnosis.case import Case
from assent.diagnosis.examine import Report
from assent.diagnosis.fix import Applied, changes
from assent.diagnosis.model_rules import model_rules
from assent.diagnosis.opening import kind_of_model
from assent.errors import UsageError
from assent.pipelines.steps import STEPS
from assent.runs.files import write_text
from assent.runs.folder import MANIFEST
from assent.runs.foreign_logs import holds_log

if TYPE_CHECKING:
    from assent.data.loading import Dataset


def doctor(config: DoctorConfig) -> tuple[dict[str, Any], list[str], int]:
    """The document, the same as lines of text, and the exit status."""
    if config.list_rules:
        return listed(config, model_rules)
    if config.apply is not None:
        absent(Path(config.apply))
        if Path(config.targets[0], MANIFEST).is_file():  # the rows of a run are written beside its configuration
            absent(Path(config.apply).with_suffix(".jsonl"))
    accepted = accepted_in(config, model_rules)
    reports = look(config, partial(_opened, config), model_rules)
    document, lines, status = tell(config, reports, accepted)
    if config.apply is not None:
        lines += ["", *_apply(Path(config.apply), config.targets[0], next(iter(reports.values())), document)]
    return document, lines, status


def _opened(config: DoctorConfig, target: str) -> Case:
    kind = kind_of_model(Path(target))
    has_log = kind is not None and not config.probe and holds_log(Path(target))
    if kind is not None and not has_log:
        return _probed(config, target, kind)
    if config.data is not None:
        raise UsageError(
            "--data is for a reward model", got=target, fix="leave --data out, or give its folder (RUN/model)"
        )
    case = opened(config, target, columns=config.columns)
    if has_log:  # as trainers leave them: the model, and the log beside it or in its checkpoints
        case = replace(case, reading=(*case.reading, f"the {kind} beside the log is not looked at: --probe loads it"))
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


def _probed(config: DoctorConfig, target: str, kind: str) -> Case:
    """What a model's folder was measured to be."""
    if not config.probe:
        raise UsageError(f"{target} is a model: reading it means loading it", fix="give --probe")
    idle = {"model": "policy", "prompts": "policy", "data": "reward model", "max_new_tokens": "policy"}
    for name, whose in idle.items():
        if name in config.model_fields_set and (name == "model" or whose != kind):
            raise UsageError(f"--{name.replace('_', '-')} has no effect beside a {kind}", fix="leave it out")
    if config.columns and config.data is None:
        raise UsageError("--columns has no effect beside a model without --data", fix="give both, or leave it out")
    if kind == "reward model":
        from assent.commands.doctor_reward import scores_of

        return Case(models=scores_of(target, config), source="model")
    from assent.commands.doctor_probe import behaviour_of
    from assent.data.loading import load_groups

    prompts = None if config.prompts is None else load_groups(config.prompts)
    return Case(models=behaviour_of(target, config, prompts), source="model")


def absent(path: Path) -> Path:
    """The path. Raises UsageError where it is a file: that may be the user's data or configuration."""
    if path.exists():
        raise UsageError(f"{path} exists already", fix="delete it, or give another --apply")
    return path


def _apply(path: Path, target: str, report: Report, document: dict[str, Any]) -> list[str]:
    """Writes what the findings change: a run's configuration, or the rows of data that they leave standing."""
    case = report.case
    if case.source == "data":
        return apply_to_data(path, report, document)
    if case.source != "assent" or case.stage not in STEPS:
        what = f"a {case.models.kind}" if case.models is not None else f"a log of {case.source}"
        raise UsageError(
            f"--apply needs the configuration of a run of ours, and {target} is {what}",
            fix="leave --apply out, and make the changes that are printed",
        )
    made = changes(case.config, report.findings)
    lines: list[str] = []
    rows = path.with_suffix(".jsonl")
    if report.data is not None and (dropped := _dropped(report)):
        if rows == path:
            raise UsageError(f"{path} would be configuration and rows in one", fix="name it .yaml: --apply FILE.yaml")
        absent(rows)
        lines = _write_rows(rows, report.data.dataset, dropped)
        made.append(Applied("data", case.config["data"], str(rows), ", ".join(dropped)))
    document["applied"] = [
        {"option": one.option, "before": one.before, "after": one.after, "rule": one.rule} for one in made
    ]
    if not made:
        return [f"{path} is not written: no finding names a change of an option or rows to leave out. What to do "
                "stands with each finding"]  # fmt: skip
    options = fixed_options(case, made)
    if lines:
        options.pop("columns", None)  # the rows are written under our names
    parse_options(STEPS[case.stage].config_class(), options, where=f" of {target}, changed")
    text = "".join(f"# {one.text()} ({one.rule})\n" for one in made)
    write_text(path, text + yaml.safe_dump(options, sort_keys=False, allow_unicode=True), what=str(path))
    lines += [f"{path}: the run's configuration with {len(made)} changed: assent {case.stage} --config {path}"]
    return lines + [f"  {one.text()} ({one.rule})" for one in made]


def apply_to_data(path: Path, report: Report, document: dict[str, Any]) -> list[str]:
    """Writes the rows of data that the findings leave standing; what was written, as lines and in the document."""
    dataset, dropped = report.case.data.dataset, _dropped(report)
    document["applied"] = [{"rule": rule, "rows_left_out": len(sources)} for rule, sources in dropped.items()]
    if not dropped:
        return [f"{path} is not written: no finding is mended by leaving rows out. What to do stands with each finding"]
    return _write_rows(path, dataset, dropped)


def _dropped(report: Report) -> dict[str, tuple[str, ...]]:
    """Sources of the rows that each rule leaves out."""
    return {finding.rule: finding.drop for finding in report.findings if finding.drop}


def _write_rows(path: Path, dataset: Dataset, dropped: dict[str, tuple[str, ...]]) -> list[str]:
    """Writes the rows that stay. Raises UsageError where none does."""
    from assent.data.loading import write_groups

    out = {source for sources in dropped.values() for source in sources}
    kept = [group for group in dataset if group.source not in out]
    if not kept:
        raise UsageError(f"{path} would be empty: the findings leave out every row", fix="leave --apply out")
    write_groups(path, kept, dataset.layout)
    total = len(dataset) + len(dataset.refused)
    lines = [f"{path}: {len(kept):,} of {total:,} rows of {dataset.path}"]
    return lines + [f"  left out: {len(sources):,} ({rule})" for rule, sources in dropped.items()]


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
