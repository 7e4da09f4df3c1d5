"""Reads a pipeline file. Every stage, option and reference is checked before the first stage starts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from assent.config.loading import parse_options, read_value, read_yaml, unknown_name
from assent.config.options import NonNegative, Options
from assent.errors import ConfigError
from assent.pipelines.references import REFERENCE, check_variables, references, replaced, texts, with_variables
from assent.pipelines.steps import GATE, STEPS, Step
from assent.runs.files import sha256_of
from assent.runs.manifest import RESULT_NEUTRAL

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class StageEntry(Options):
    """A stage as written in the file."""

    name: str
    """Its name for later stages, and that of its folder."""
    command: str
    """The command that it runs."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the command."""
    fast: dict[str, Any] = Field(default_factory=dict)
    """Options that replace those above with --fast."""


class PipelineFile(Options):
    """A pipeline as written in the file."""

    name: str
    """Its name in the report."""
    output_dir: str | None = None
    """Folder of its results; --output-dir overrides it."""
    seed: NonNegative = 0
    """Passed to every stage that takes a seed and gives none; --seed overrides it."""
    variables: dict[str, Any] = Field(default_factory=dict)
    """Values that stages' options take as ${NAME}; --set NAME=VALUE overrides one. null: it must be given."""
    stages: list[dict[str, Any]] = Field(min_length=1)
    """The stages, in order."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A checked stage. `options` still hold references; `key` is a hash of everything that its result depends on;
    `needs` are the names of the stages whose outputs it takes."""

    name: str
    command: str
    step: Step
    options: Mapping[str, Any]
    output_dir: Path
    key: str
    needs: frozenset[str]

    def given(self, outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The options, with references replaced by the outputs of earlier stages."""

        def value_of(reference: str) -> str:
            stage, _, name = reference.partition(".")
            return str(outputs[stage][name])

        return replaced(dict(self.options), value_of)

    def config(self, outputs: Mapping[str, Mapping[str, Any]]) -> BaseModel:
        """The stage's configuration, from `given`."""
        return parse_options(self.step.config_class(), self.given(outputs), where=f" of stage {self.name}")


@dataclass(frozen=True, slots=True)
class Plan:
    """A pipeline that is ready to run."""

    name: str
    output_dir: Path
    stages: tuple[Stage, ...]


def read_plan(
    path: str | Path,
    *,
    output_dir: str | None = None,
    seed: int | None = None,
    fast: bool = False,
    overrides: Sequence[str] = (),
) -> Plan:
    """The pipeline of a file. Raises ConfigError if a stage, option, reference or override is wrong.

    overrides   `stage.option=value`, each instead of the file's value; values are read by `read_value`
    """
    file = parse_options(PipelineFile, read_yaml(path), where=f" in {path}")
    return plan_of(file, path=path, output_dir=output_dir, seed=seed, fast=fast, overrides=overrides)


def plan_of(
    file: PipelineFile,
    *,
    path: str | Path,
    output_dir: str | None = None,
    seed: int | None = None,
    fast: bool = False,
    overrides: Sequence[str] = (),
) -> Plan:
    """The plan of a pipeline as it was read. `path` is what messages call it; for the rest see `read_plan`."""
    folder = output_dir or file.output_dir
    if folder is None:
        raise ConfigError(f"{path} names no output folder", fix="give --output-dir")
    entries = entries_of(file.stages, path)
    if fast and not any(entry.fast for entry in entries):
        raise ConfigError(f"--fast has no effect: no stage in {path} has a `fast:` section", fix="leave it out")
    given, variables = parse_overrides(overrides, entries, file.variables)
    check_variables(variables, [part for entry in entries for part in (entry.options, entry.fast)], path)
    stages: list[Stage] = []
    for entry in entries:

        def checked(options: dict[str, Any], entry: StageEntry = entry) -> Stage:
            options = with_variables(options, variables, f" of stage {entry.name}")
            return _stage(entry, options, folder, file.seed if seed is None else seed, stages)

        plain = checked({**entry.options, **given[entry.name]})
        shortened = checked({**entry.options, **entry.fast, **given[entry.name]})
        stages.append(shortened if fast else plain)
    return Plan(file.name, Path(folder), tuple(stages))


def entries_of(stages: Sequence[Mapping[str, Any]], path: str | Path) -> list[StageEntry]:
    """The stages as written, each known by a name of its own. Raises ConfigError."""
    entries = [_entry(raw, number, path) for number, raw in enumerate(stages, start=1)]
    names = [entry.name for entry in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two stages have the name {twice[0]}", fix="give each stage a name of its own")
    return entries


def _entry(raw: Mapping[str, Any], number: int, path: str | Path) -> StageEntry:
    where = f" of stage {raw.get('name', number)} in {path}"
    entry = parse_options(StageEntry, raw, where=where)
    if not NAME.fullmatch(entry.name):
        raise ConfigError(
            f"name{where} is not right", got=repr(entry.name), expected="lower-case letters, digits, - and _"
        )
    if entry.command not in STEPS:
        error = unknown_name("command", entry.command, STEPS)
        raise ConfigError(error.what + where, expected=error.expected, fix=error.fix)
    return entry


def parse_overrides(
    overrides: Sequence[str], entries: Sequence[StageEntry], variables: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Each stage's options that --set gives, and the file's variables with those that --set gives."""
    given: dict[str, dict[str, Any]] = {entry.name: {} for entry in entries}
    given_variables: dict[str, Any] = {}
    for override in overrides:
        target, equals, value = override.partition("=")
        stage, dot, option = target.partition(".")
        if not equals or (dot and not option):
            raise ConfigError("--set cannot be read", got=override, expected="STAGE.OPTION=VALUE or VARIABLE=VALUE")
        known, kind = (given, "stage in --set") if dot else (variables, "variable in --set")
        if stage not in known:
            raise (
                unknown_name(kind, stage, known)
                if known
                else ConfigError(
                    "--set cannot be read", got=override, expected="STAGE.OPTION=VALUE, as the file has no variables"
                )
            )
        where, name = (given[stage], option.replace("-", "_")) if dot else (given_variables, stage)
        if name in where:
            raise ConfigError(f"--set gives {target} twice", got=override, fix="give it once")
        where[name] = read_value(value)
    return given, {**variables, **given_variables}


def _stage(entry: StageEntry, options: dict[str, Any], folder: str, seed: int, earlier: Sequence[Stage]) -> Stage:
    step = STEPS[entry.command]
    config_class = step.config_class()
    where = f" of stage {entry.name}"
    output_dir = Path(folder) / entry.name
    if "output_dir" in options:
        raise ConfigError(f"output_dir{where} is set by the pipeline", expected=output_dir, fix="leave it out")
    if "output_dir" in config_class.model_fields:
        options = {**options, "output_dir": str(output_dir)}
    if "seed" in config_class.model_fields:
        options = {"seed": seed, **options}
    known = {stage.name: stage for stage in earlier}
    used = [_known_reference(reference, known, where) for reference in references(options, where)]
    config = parse_options(config_class, options, where=where)  # references are text, as the outputs are
    gates = [stage for stage in earlier if stage.command == GATE]
    needs = {stage.name for stage in (*used, *_in_folders_of(earlier, options), *gates)}
    return Stage(entry.name, entry.command, step, options, output_dir, _key(entry, config, used), frozenset(needs))


def _in_folders_of(earlier: Sequence[Stage], options: Mapping[str, Any]) -> list[Stage]:
    """The stages in whose folder a path of the options lies, written out instead of as a reference."""
    paths = [Path(text).absolute() for text in texts(options) if text]
    return [stage for stage in earlier if any(path.is_relative_to(stage.output_dir.absolute()) for path in paths)]


def _known_reference(reference: str, earlier: Mapping[str, Stage], where: str) -> Stage:
    name, dot, output = reference.partition(".")
    if not dot:
        raise ConfigError(f"${{{reference}}}{where} cannot be read", expected="${STAGE.OUTPUT}")
    if name not in earlier:
        error = unknown_name("earlier stage", name, earlier) if earlier else ConfigError("there is no earlier stage")
        raise ConfigError(f"${{{reference}}}{where}: {error.what}", expected=error.expected, fix=error.fix)
    stage = earlier[name]
    if output not in stage.step.outputs:
        error = unknown_name(f"output of {stage.command}", output, stage.step.outputs)
        raise ConfigError(f"${{{reference}}}{where}: {error.what}", expected=error.expected, fix=error.fix)
    return stage


def _key(entry: StageEntry, config: BaseModel, used: Sequence[Stage]) -> str:
    """SHA-256 over all that the result depends on: command, options, content of files, the stages referred to."""
    options = config.model_dump(mode="json", exclude=set(RESULT_NEUTRAL))
    still = {name: value for name, value in options.items() if name not in STEPS[entry.command].growing}
    files = {text: _file_state(Path(text)) for text in texts(still) if text and not REFERENCE.search(text)}
    identity = {
        "command": entry.command,
        "options": options,
        "inputs": sorted(stage.key for stage in used),
        "files": {text: state for text, state in files.items() if state is not None},
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _file_state(path: Path) -> str | None:
    """A hash of a file's content, or of a folder's names, sizes and times. None if there is no such file or folder."""
    try:
        if path.is_file():
            return sha256_of(path)
        if path.is_dir():
            found = [(str(f.relative_to(path)), f.stat()) for f in sorted(path.rglob("*")) if f.is_file()]
            listed = [(name, state.st_size, state.st_mtime_ns) for name, state in found]
            return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    except OSError:
        return None  # too long for a path, or not readable: if it is a path, the stage reports it
    return None
