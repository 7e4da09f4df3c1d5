"""Runs a pipeline: its stages in order. Finished stages are not repeated, and an interrupted one is resumed.

`<output_dir>/pipeline.json` holds each stage's command, options and result. Format: reporting/SCHEMA.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assent.errors import RunFolderError, UsageError
from assent.pipelines.plan import Plan, Stage
from assent.runs.files import from_json, write_json
from assent.runs.folder import LOCK, lock_folder, model_is_damaged
from assent.runs.progress import Progress, progress_for_stderr

STATE = "pipeline.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """`outputs` by stage; `report` is the path of the page about all of them."""

    name: str
    output_dir: Path
    outputs: dict[str, dict[str, Any]]
    report: Path

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "output_dir": str(self.output_dir),
            "stages": self.outputs,
            "report": str(self.report),
        }


Report = Callable[[Path], Path]
"""Writes the report on a pipeline's folder, and returns its path."""


def run_pipeline(plan: Plan, *, report: Report, progress: Progress | None = None) -> PipelineResult:
    """Runs the stages that are not finished yet, then calls `report`.

    Raises RunFolderError before anything runs if the folder holds another pipeline, if it holds stages that ran with
    other options, or if another process is using it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a pipeline runs in one process", fix="start single training commands with torchrun")
    progress = progress or progress_for_stderr()
    _State.open(plan)  # before the lock: a folder of something else gets no lock
    with lock_folder(plan.output_dir):
        outputs = _run(plan, _State.open(plan), progress)
        return PipelineResult(plan.name, plan.output_dir, outputs, report(plan.output_dir))


def _run(plan: Plan, state: _State, progress: Progress) -> dict[str, dict[str, Any]]:
    """Every stage's outputs."""
    outputs: dict[str, dict[str, Any]] = {}
    with progress.task(plan.name, total=len(plan.stages)) as task:
        for number, stage in enumerate(plan.stages, start=1):
            finished = state.result(stage)
            if finished is None:
                progress.line(f"stage {number} of {len(plan.stages)}: {stage.name} ({stage.command})")
                config = stage.config(outputs)
                state.start(stage, config.model_dump(mode="json"))
                finished = stage.step.run(config, progress=progress)
                state.finish(stage, finished)
            else:
                progress.line(f"stage {number} of {len(plan.stages)}: {stage.name} is already finished")
            outputs[stage.name] = finished
            task.advance()
    state.close()
    return outputs


class _State:
    """pipeline.json, which is replaced as a whole after every change."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path, self.record = path, record

    @classmethod
    def open(cls, plan: Plan) -> _State:
        path = plan.output_dir / STATE
        if not path.exists():
            if plan.output_dir.exists() and any(path.name != LOCK for path in plan.output_dir.iterdir()):
                raise RunFolderError(
                    f"{plan.output_dir} holds something else", expected=f"a new folder, or one with {STATE}"
                )
            return cls(path, {"format": FORMAT, "name": plan.name, "stages": []})
        record = _read(path)
        if record.get("name") != plan.name:
            raise RunFolderError(
                f"{plan.output_dir} belongs to another pipeline",
                got=record.get("name"),
                expected=plan.name,
                fix="give another --output-dir",
            )
        state = cls(path, record)
        state._refuse_changed(plan)
        return state

    def _refuse_changed(self, plan: Plan) -> None:
        """Raises if a stage has changed since it ran: results are only deleted by the user."""
        changed = [
            stage
            for stage in plan.stages
            if (entry := self._entry(stage)) is not None and entry["key"] != stage.key and stage.output_dir.exists()
        ]
        if changed:
            names = ", ".join(stage.name for stage in changed)
            folders = " ".join(str(stage.output_dir) for stage in changed)
            raise RunFolderError(
                f"{plan.output_dir} holds results of these stages with other options or inputs: {names}",
                fix=f"give another --output-dir, or delete these folders to run the stages again: {folders}",
            )

    def _entry(self, stage: Stage) -> dict[str, Any] | None:
        return next((entry for entry in self.record["stages"] if entry["name"] == stage.name), None)

    def result(self, stage: Stage) -> dict[str, Any] | None:
        """The stage's outputs; None if it has not finished, or if its folder or its model was deleted or cut."""
        entry = self._entry(stage)
        if entry is None or entry["key"] != stage.key or not stage.output_dir.exists():
            return None
        if model_is_damaged(stage.output_dir):
            return None
        return entry["result"]

    def start(self, stage: Stage, options: Mapping[str, Any]) -> None:
        entry = self._entry(stage)
        if entry is None:
            entry = {"name": stage.name}
            self.record["stages"].append(entry)
        self.record["finished"] = False
        entry.update(
            command=stage.command,
            key=stage.key,
            options=dict(options),
            output_dir=str(stage.output_dir),
            started_at=_now(),
            finished_at=None,
            result=None,
        )
        self._write()

    def finish(self, stage: Stage, result: Mapping[str, Any]) -> None:
        entry = self._entry(stage)
        assert entry is not None
        entry.update(finished_at=_now(), result=dict(result))
        self._write()

    def close(self) -> None:
        """Records that all stages are finished."""
        self.record["finished"] = True
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.record)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read", got=error) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RunFolderError(f"{path} is not a pipeline record of this version", fix="give another --output-dir")
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
