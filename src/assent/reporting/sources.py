"""What a report is made from: a pipeline folder or a run folder, read into plain records. Formats: SCHEMA.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assent.errors import RunFolderError
from assent.runs.files import as_number
from assent.runs.reading import Series, read_run

EVALUATION_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a pipeline, or a single run."""

    name: str
    command: str
    folder: Path
    options: Mapping[str, Any]
    result: Mapping[str, Any]
    finished: bool = True
    metrics: Mapping[str, Series] = field(default_factory=dict)
    samples: tuple[Mapping[str, Any], ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """run.json: versions, hashes, parents, notes. Empty where the stage keeps no run folder."""

    def last(self, metric: str) -> float | None:
        """The last value logged, or the one in the result."""
        if metric in self.metrics:
            return self.metrics[metric].last
        metrics = self.result.get("metrics")
        return as_number(metrics.get(metric)) if isinstance(metrics, Mapping) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Everything one page tells."""

    title: str
    folder: Path
    is_pipeline: bool
    stages: tuple[Stage, ...]
    evaluation: Mapping[str, Any] | None = None


def read_source(folder: str | Path) -> Source:
    """A folder with pipeline.json, or with run.json. Raises RunFolderError for any other, and for broken JSON."""
    path = Path(folder)
    if (path / "pipeline.json").is_file():
        return _read_pipeline(path)
    if (path / "run.json").is_file():
        stage = _read_stage(path)
        evaluation = _read_evaluation(path)
        return Source(title=path.resolve().name, folder=path, is_pipeline=False, stages=(stage,), evaluation=evaluation)
    raise RunFolderError(
        "there is nothing to report on",
        got=path,
        expected="a folder with pipeline.json (assent run) or run.json (any training command)",
        fix="give the output folder of a run",
    )


def _read_pipeline(path: Path) -> Source:
    record = _read_json(path / "pipeline.json")
    stages = []
    evaluation = _read_evaluation(path)
    for entry in record.get("stages", []):
        folder = _stage_folder(path, entry)
        stages.append(_read_stage(folder, entry))
        evaluation = _read_evaluation(folder) or evaluation
    return Source(
        title=str(record.get("name") or path.resolve().name),
        folder=path,
        is_pipeline=True,
        stages=tuple(stages),
        evaluation=evaluation,
    )


def _stage_folder(pipeline: Path, entry: Mapping[str, Any]) -> Path:
    """Where the stage's files are now: beside pipeline.json if the folder was moved, else where it was written."""
    beside = pipeline / str(entry["name"])
    return beside if beside.is_dir() else Path(str(entry.get("output_dir") or beside))


def _read_stage(folder: Path, entry: Mapping[str, Any] | None = None) -> Stage:
    """`entry`: the stage in pipeline.json, None for a run on its own."""
    listed = entry or {}
    if not (folder / "run.json").is_file():
        return Stage(
            name=str(listed["name"]),
            command=str(listed["command"]),
            folder=folder,
            options=dict(listed.get("options") or {}),
            result=dict(listed.get("result") or {}),
            finished=listed.get("result") is not None,
            manifest={"started": listed.get("started_at"), "finished": listed.get("finished_at")},
        )
    view = read_run(folder)
    return Stage(
        name=str(listed.get("name") or folder.resolve().name),
        command=str(listed.get("command") or view.command),
        folder=folder,
        options=dict(view.config),
        result=dict(view.result or listed.get("result") or {}),
        finished=view.is_finished,
        metrics=view.metrics,
        samples=tuple(view.samples),
        manifest=view.manifest,
    )


def _read_evaluation(folder: Path) -> dict[str, Any] | None:
    """evaluation.json of a folder, None without one; what it may lack is filled with None."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return None
    evaluation = _read_json(path)
    missing = sorted({"policies", "baseline", "reference", "scorer", "num_prompts", "confidence"} - set(evaluation))
    if missing or evaluation.get("schema") != EVALUATION_SCHEMA:
        raise RunFolderError(
            f"{path} is not an evaluation this version reads",
            got=f"schema {evaluation.get('schema')}" + (f", without {', '.join(missing)}" if missing else ""),
            expected=f"schema {EVALUATION_SCHEMA}",
            fix="evaluate again with this version",
        )
    quality = evaluation.get("reward_model")
    optional = dict.fromkeys(("noise_ceiling", "stated_accuracy", "overconfidence"))
    return {"samples": [], **evaluation, "reward_model": quality and {**optional, **quality}}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError("a record of the run cannot be read", got=f"{path}: {error}") from error
    if not isinstance(record, dict):
        raise RunFolderError("a record of the run is not a JSON object", got=path)
    return record
