"""Reads what a report is made from: the folder of a pipeline or a run. Formats: SCHEMA.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assent.errors import RunFolderError
from assent.runs.files import as_number, bytes_of
from assent.runs.folder import METRICS
from assent.runs.reading import Series, read_run

EVALUATION_SCHEMA, FINDINGS_SCHEMA, FRONTIER_SCHEMA = 1, 1, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a pipeline, or a single run."""

    name: str
    command: str
    folder: Path
    options: Mapping[str, Any]
    result: Mapping[str, Any]
    finished: bool = True
    stopped: bool = False
    """A finding ended it before its last step."""
    fault: str | None = None
    """What a stage without a run folder found, such as a gate whose limit is not kept; it ended the pipeline."""
    metrics: Mapping[str, Series] = field(default_factory=dict)
    samples: tuple[Mapping[str, Any], ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """run.json: versions, hashes, parents, notes. Empty if the stage has no run folder."""
    written_to: str = ""
    """The folder at the time of the run, to which later stages' options refer; it may have been moved since."""
    findings: Mapping[str, Any] | None = None
    """findings.json."""
    last_written: datetime | None = None
    """When its last metrics were written (UTC)."""

    def last(self, metric: str) -> float | None:
        """The last logged value, or the one in the result. A cost is the result's where there is one: the last
        measurement on held-out data comes after the last logged step."""
        metrics = self.result.get("metrics")
        result = as_number(metrics.get(metric)) if isinstance(metrics, Mapping) else None
        if metric in self.metrics and (result is None or not metric.startswith("cost/")):
            return self.metrics[metric].last
        return result

    @property
    def step(self) -> int:
        """Number of updates done."""
        return max((series.steps[-1] for series in self.metrics.values()), default=0)

    @property
    def planned_steps(self) -> int | None:
        """Number of updates planned; None if unknown."""
        return self.manifest.get("facts", {}).get("planned_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Everything that a page shows."""

    title: str
    folder: Path
    is_pipeline: bool
    stages: tuple[Stage, ...]
    evaluation: Mapping[str, Any] | None = None
    frontier: Mapping[str, Any] | None = None
    is_finished: bool = True

    @property
    def goes_on(self) -> bool:
        """Whether more may be written: nothing has ended it."""
        return not self.is_finished and not any(stage.stopped or stage.fault for stage in self.stages)


def read_source(folder: str | Path) -> Source:
    """Reads a folder with pipeline.json or run.json. Raises RunFolderError for other folders and broken JSON."""
    path = Path(folder)
    if (path / "pipeline.json").is_file():
        return _read_pipeline(path)
    if (path / "run.json").is_file():
        stage = _read_stage(path)
        return Source(
            title=path.resolve().name,
            folder=path,
            is_pipeline=False,
            stages=(stage,),
            evaluation=_read_evaluation(path),
            frontier=_read_frontier(path),
            is_finished=stage.finished,
        )
    raise RunFolderError(
        "this is not the folder of a run",
        got=path,
        expected="a folder with pipeline.json (from assent run) or run.json (from a training command)",
        fix="give the output folder of a run",
    )


def _read_pipeline(path: Path) -> Source:
    record = _read_json(path / "pipeline.json")
    stages = []
    evaluation, frontier = _read_evaluation(path), _read_frontier(path)
    for entry in record.get("stages", []):
        folder = _stage_folder(path, entry)
        stages.append(_read_stage(folder, entry))
        evaluation = _read_evaluation(folder) or evaluation
        frontier = _read_frontier(folder) or frontier
    return Source(
        title=str(record.get("name") or path.resolve().name),
        folder=path,
        is_pipeline=True,
        stages=tuple(stages),
        evaluation=evaluation,
        frontier=frontier,
        is_finished=bool(record.get("finished", all(stage.finished for stage in stages))),
    )


def _stage_folder(pipeline: Path, entry: Mapping[str, Any]) -> Path:
    """Where the stage's files are now: next to pipeline.json, or else where they were written."""
    beside = pipeline / str(entry["name"])
    return beside if beside.is_dir() else Path(str(entry.get("output_dir") or beside))


def _read_stage(folder: Path, entry: Mapping[str, Any] | None = None) -> Stage:
    """`entry`: the stage in pipeline.json; None for a single run."""
    listed = entry or {}
    if not (folder / "run.json").is_file():
        return Stage(
            name=str(listed["name"]),
            command=str(listed["command"]),
            folder=folder,
            options=dict(listed.get("options") or {}),
            result=dict(listed.get("result") or {}),
            finished=listed.get("result") is not None,
            fault=listed.get("fault"),
            manifest={"started": listed.get("started_at"), "finished": listed.get("finished_at")},
            written_to=str(listed.get("output_dir") or folder),
        )
    view = read_run(folder)
    return Stage(
        name=str(listed.get("name") or folder.resolve().name),
        command=str(listed.get("command") or view.command),
        folder=folder,
        options=dict(view.config),
        result=dict(view.result or listed.get("result") or {}),
        finished=view.is_finished,
        stopped=view.is_stopped,
        metrics=view.metrics,
        samples=tuple(view.samples),
        manifest=view.manifest,
        written_to=str(listed.get("output_dir") or view.config.get("output_dir") or folder),
        findings=_read_findings(folder),
        last_written=_last_written(folder),
    )


def _last_written(folder: Path) -> datetime | None:
    path = folder / METRICS
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.is_file() else None


def _read_findings(folder: Path) -> dict[str, Any] | None:
    path = folder / "findings.json"
    if not path.is_file():
        return None
    record = _read_json(path)
    _check_schema(path, record, FINDINGS_SCHEMA, {"findings"}, "diagnose again with this version")
    return {"not_checked": [], **record}


def _read_frontier(folder: Path) -> dict[str, Any] | None:
    path = folder / "frontier.json"
    if not path.is_file():
        return None
    record = _read_json(path)
    needed = {"methods", "proxies", "reference", "gold", "gold_at_reference", "num_prompts", "confidence"}
    _check_schema(path, record, FRONTIER_SCHEMA, needed, "measure the frontier again with this version")
    return record


def _check_schema(path: Path, record: Mapping[str, Any], schema: int, needed: set[str], fix: str) -> None:
    missing = sorted(needed - set(record))
    if missing or record.get("schema") != schema:
        raise RunFolderError(
            f"{path} has a format that this version cannot read",
            got=f"schema {record.get('schema')}" + (f", without {', '.join(missing)}" if missing else ""),
            expected=f"schema {schema}",
            fix=fix,
        )


def _read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The folder's evaluation.json, with None for missing optional figures; None if there is no such file."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return None
    evaluation = _read_json(path)
    needed = {"policies", "baseline", "reference", "scorer", "num_prompts", "confidence"}
    _check_schema(path, evaluation, EVALUATION_SCHEMA, needed, "evaluate again with this version")
    for policy in evaluation["policies"]:
        if policy["kl"] is not None:
            policy["kl"] = {"best_of_n": None, **policy["kl"]}
    quality = evaluation.get("reward_model")
    optional = dict.fromkeys(("noise_ceiling", "stated_accuracy", "overconfidence"))
    return {"samples": [], **evaluation, "reward_model": quality and {**optional, **quality}}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(bytes_of(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError("a file of the run cannot be read", got=f"{path}: {error}") from error
    if not isinstance(record, dict):
        raise RunFolderError("a file of the run is not a JSON object", got=path)
    return record
