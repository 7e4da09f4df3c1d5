"""assent plan: which method the data supports and why, and the pipeline file that runs it. Without torch, unless
memory and time are asked for (`plan_needs.py`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assent.config.plan import PlanConfig
from assent.data.columns import require_in_one
from assent.data.loading import load_groups
from assent.diagnosis.examine import Report
from assent.errors import UsageError
from assent.models.folder_contents import has_chat_template, read_json
from assent.models.folders import content_hash, resolve_folder
from assent.pipelines.steps import STEPS
from assent.planning.blueprint import blueprint_text
from assent.planning.choice import Choice, choose, spending
from assent.planning.facts import Facts, Reward, Source, Start, audited, source_of
from assent.planning.frontier import Chosen, Limit, best_point, read_points
from assent.planning.gate_stages import gated
from assent.planning.measuring import Measurement, measurement, reports_of
from assent.planning.pipeline_file import pipeline_text
from assent.planning.plan_text import (
    lines_of_alternatives,
    lines_of_choice,
    lines_of_facts,
    lines_of_frontier,
    lines_of_measurement,
    lines_of_needs,
    lines_of_risks,
    lines_of_spending,
    lines_of_warnings,
)
from assent.planning.rules import Situation, rules
from assent.planning.stages import PlannedStage, Wanted, stages_of
from assent.runs.files import from_json, to_json, write_text

PIPELINE, DOCUMENT, SIGNATURE = "pipeline.yaml", "blueprint.md", "signed.yaml"
"""Files of a blueprint's folder; the last one is written by whoever signs."""
LONGEST = 1024
"""Longest sequence of the file's stages, in tokens, where the model reads as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that was found."""

    sources: tuple[Source, ...]
    facts: Facts
    choice: Choice
    reports: dict[str, Report]
    measurement: Measurement
    wanted: Wanted
    stages: tuple[PlannedStage, ...]
    limits: dict[str, Any]
    """The gates' limits: variables of the file."""
    chosen: Chosen | None
    """The point of a measured frontier."""
    spending: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {
            "data": [
                {"path": s.path, "split": s.split, "kind": s.kind, "rows": s.count, "refused": s.refused}
                for s in self.sources
            ],
            "facts": self.facts.as_dict(),
            "choice": self.choice.as_dict(),
            "methods": rules()["methods"],
            "risks": {path: [f.as_dict() for f in report.findings] for path, report in self.reports.items()},
            "evaluation": self.measurement.as_dict(),
            "spending": self.spending,
            "limits": self.limits,
            "frontier": None if self.chosen is None else self.chosen.as_dict(),
            "stages": [{"name": s.name, "command": s.command, "options": dict(s.options)} for s in self.stages],
        }

    def lines(self) -> list[str]:
        return [
            *lines_of_facts(self.facts),
            *(
                f"  {s.refused:,} rows of {s.name} cannot be used: see assent data check"
                for s in self.sources
                if s.refused
            ),
            *lines_of_warnings(self.sources),
            *lines_of_choice(self.choice),
            *lines_of_frontier(self.chosen, self.choice),
            *lines_of_alternatives(self.choice),
            *lines_of_spending(self.spending),
            *lines_of_risks(self.reports),
            *lines_of_measurement(self.measurement),
        ]


def plan(config: PlanConfig) -> tuple[dict[str, Any], list[str], list[str]]:
    """The document, the same as lines of text, and those with what every method needs.

    Raises ConfigError where the constraints exclude every method, DataError for data without a usable row.
    """
    if config.calibrate:
        from assent.commands.plan_calibrate import calibrate

        measured, lines = calibrate()
        return measured, lines, lines
    if config.update:
        from assent.commands.plan_update import plan_update

        return plan_update(config)
    for option, path in (("output", config.output), ("blueprint", config.blueprint)):
        if path is not None and Path(path).exists():
            raise UsageError(f"{path} exists already", fix=f"delete it, or give another --{option}")
    found, more, on_needs = _fitting(config)
    document = {**found.as_dict(), **more, "pipeline": config.output, "blueprint": None}
    lines = [*found.lines(), *on_needs]
    if config.output is not None:
        _write(found, Path(config.output), name=Path(config.output).stem)
        lines += ["", f"pipeline: assent run {config.output}"]
    if config.blueprint is not None:
        folder = Path(config.blueprint)
        folder.mkdir(parents=True)
        file = folder / PIPELINE
        _write(found, file, name=folder.name)
        write_text(folder / DOCUMENT, _document(config, found), what="the blueprint")
        document |= {"pipeline": str(file), "blueprint": str(folder / DOCUMENT)}
        lines += ["", f"blueprint: {folder / DOCUMENT}", f"pipeline: assent run {file}"]
    return from_json(to_json(document)), lines, [*lines, *lines_of_needs(found.choice.method)]


def _fitting(config: PlanConfig) -> tuple[Plan, dict[str, Any], list[str]]:
    """The plan; with --hardware also what it needs, as document and lines. A method that fits neither the device, nor
    the deadline, nor the budget gives way to the next, unless it is asked for."""
    given = _audit(config)
    if config.hardware is None:
        return _planned(config, given, {}), {}, []
    from assent.commands.plan_needs import needed

    unfit: dict[str, str] = {}
    while True:
        found = _planned(config, given, unfit)
        more, lines, misfit = needed(config, found.stages)
        if misfit is None or config.method is not None:
            return found, more, lines
        unfit[found.choice.method] = misfit


def _write(found: Plan, file: Path, *, name: str) -> None:
    text = pipeline_text(found.stages, name=name, choice=found.choice, output_dir=f"out/{name}", variables=found.limits)
    write_text(file, text, what="the pipeline file")


def _document(config: PlanConfig, found: Plan) -> str:
    assert config.blueprint is not None
    assert config.owner is not None
    return blueprint_text(
        found.stages,
        wanted=found.wanted,
        facts=found.facts,
        limits=found.limits,
        licences=config.data_license,
        owner=config.owner,
        file=str(Path(config.blueprint) / PIPELINE),
        before=content_hash(config.model),
    )


@dataclass(frozen=True, slots=True)
class Given:
    """What does not depend on the method, and is read once. `length`: the longest sequence that the model reads."""

    sources: tuple[Source, ...]
    facts: Facts
    reports: dict[str, Report]
    length: int


def _audit(config: PlanConfig) -> Given:
    folder = resolve_folder(config.model, weights=False)
    length = _context(read_json(folder, "config.json"))
    splits = _splits(config)
    own = len(config.data) == 1  # of several files, each has its own of the columns
    files = [
        load_groups(path, split=split, columns=config.columns, own_columns=own, lenient=True)
        for path, split in splits.items()
    ]
    require_in_one([file.renaming for file in files])
    sources = tuple(
        source_of(file, path=path, split=split) for file, (path, split) in zip(files, splits.items(), strict=True)
    )
    facts = audited(sources, start=_start(config, folder), feedback=config.feedback, reward=_reward_kind(config))
    return Given(sources, facts, reports_of(sources), length)


def _splits(config: PlanConfig) -> dict[str, str | None]:
    """The split of each of the data. A file has none; where there is nothing else, the loader refuses the split."""
    is_file = {path: Path(path).expanduser().is_file() for path in config.data}
    return {path: None if is_file[path] and not all(is_file.values()) else config.split for path in config.data}


def _planned(config: PlanConfig, given: Given, unfit: dict[str, str]) -> Plan:
    sources, facts = given.sources, given.facts
    situation = Situation(facts, frozenset(config.constraint), config.problem)
    choice = choose(situation, unfit, method=config.method)
    if config.blueprint is not None and choice.method == "collect":
        raise UsageError(
            "a blueprint is about a model that is released, and this data trains none yet",
            got=f"the method {choice.method}",
            fix="use --output, label the answers, and plan again",
        )
    chosen = _on_frontier(config)
    if chosen is not None:
        choice = _with_settings(choice, chosen)
    measured = measurement(
        facts,
        choice,
        sources,
        precision=config.precision,
        judge=config.judge,
        safety=config.safety,
        constraints=config.constraint,
        slices=config.slices,
    )
    wanted = Wanted(
        model=config.model,
        sources=sources,
        choice=choice,
        length=min(LONGEST, given.length),
        num_prompts=min(measured.needed, measured.held_out),
        reward=config.reward,
        judge=config.judge,
        safety=config.safety,
        precision=config.precision,
        slices=config.slices,
        max_fault=config.max_fault,
        sign_off=None if config.blueprint is None else str(Path(config.blueprint) / SIGNATURE),
    )
    stages = stages_of(wanted)
    limits: dict[str, Any] = {}
    if config.has_gates:
        stages, limits = gated(stages, wanted)
    return Plan(
        sources=sources,
        facts=facts,
        choice=choice,
        reports=given.reports,
        measurement=measured,
        wanted=wanted,
        stages=tuple(stages),
        limits=limits,
        chosen=chosen,
        spending=spending(situation),
    )


def _on_frontier(config: PlanConfig) -> Chosen | None:
    if config.frontier is None or config.maximise is None:
        return None
    limits = [Limit.of(text) for text in config.limit]
    return best_point(read_points(config.frontier), maximise=config.maximise, limits=limits)


def _with_settings(choice: Choice, chosen: Chosen) -> Choice:
    """The settings that the method's command has as options become options of its stage."""
    known = STEPS[rules()["methods"][choice.method]["command"]].config_class().model_fields
    return replace(choice, options={**choice.options, **{k: v for k, v in chosen.settings.items() if k in known}})


def _context(config: dict[str, Any]) -> int:
    return int(config.get("max_position_embeddings") or config.get("n_positions") or LONGEST)


def _start(config: PlanConfig, folder: Path) -> Start:
    """A chat template stands for instruction tuning, unless the user says otherwise."""
    if config.start != "auto":
        return config.start
    return "instruct" if has_chat_template(folder) else "base"


def _reward_kind(config: PlanConfig) -> Reward:
    """A function has a colon and no folder; everything else that scores is a model."""
    if config.reward is None:
        return "none"
    is_function = ":" in config.reward and not config.reward.startswith(("http://", "https://", "implicit:"))
    return "function" if is_function else "model"
