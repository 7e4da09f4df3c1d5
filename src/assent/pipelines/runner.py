"""Runs a pipeline: its stages in order. Finished stages are not repeated, and an interrupted one is resumed.

`<output_dir>/pipeline.json` holds each stage's command, options, threads and result. Format: reporting/SCHEMA.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from assent.errors import FaultError, RunFolderError, UsageError
from assent.pipelines.children import (
    PATIENCE_SECONDS,
    Child,
    Event,
    Shown,
    error_of,
    signals_as_events,
    with_promise,
)
from assent.pipelines.forecast import seconds_left
from assent.pipelines.plan import Plan, Stage
from assent.pipelines.shares import Jobs, fits, number_of_jobs, settled
from assent.runs.files import from_json, write_json
from assent.runs.folder import LOCK, lock_folder, model_is_damaged
from assent.runs.progress import Progress, Task, progress_for_stderr

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


def run_pipeline(plan: Plan, *, report: Report, progress: Progress | None = None, jobs: Jobs = 1) -> PipelineResult:
    """Runs the stages that are not finished yet, then calls `report`.

    `jobs`: how many stages may run at the same time, or "auto". A stage that finds a fault (a gate) ends the pipeline:
    the report is written, and the FaultError raised. Raises RunFolderError before anything runs if the folder holds
    another pipeline, if it holds stages that ran with other options, or if another process is using it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a pipeline runs in one process", fix="start single training commands with torchrun")
    progress = progress or progress_for_stderr()
    _State.open(plan)  # before the lock: a folder of something else gets no lock
    with lock_folder(plan.output_dir):
        state = _State.open(plan)
        number = number_of_jobs(jobs, plan.stages)
        state.settle(plan, number)
        if number > 1 and all(state.threads(stage) is None for stage in plan.stages):
            progress.line(f"--jobs {jobs} changes nothing: {_why_in_turn(plan, number)}")
        try:
            outputs = _Run(plan, state, progress, number).all()
        except FaultError:
            progress.line(f"report: {report(plan.output_dir)}")
            raise
        return PipelineResult(plan.name, plan.output_dir, outputs, report(plan.output_dir))


def _why_in_turn(plan: Plan, jobs: int) -> str:
    if any(threads is not None for threads in settled(plan.stages, jobs).values()):
        return "this pipeline was started with --jobs 1, and each stage keeps the threads that it was given then"
    return "each stage of this pipeline waits for another one"


class _Run:
    """The stages, each as soon as those that it needs have finished, and in the file's order.

    A stage with all cores runs in this process; one with a share of them runs in a process of its own (children.py).
    """

    def __init__(self, plan: Plan, state: _State, progress: Progress, jobs: int) -> None:
        self.plan, self.state, self.progress, self.jobs = plan, state, progress, jobs
        self.outputs: dict[str, dict[str, Any]] = {}

    def all(self) -> dict[str, dict[str, Any]]:
        """Every stage's outputs, in the file's order."""
        stages = self.plan.stages
        left = partial(seconds_left, stages, self.state.record, jobs=self.jobs)
        with self.progress.task(self.plan.name, total=len(stages), left=left) as task:
            while ready := self._ready(task):
                if any(self.state.threads(stage) is not None for stage in ready):
                    self._side_by_side(task)
                else:
                    self._here(ready[0], task)
        self.state.close()
        return {stage.name: self.outputs[stage.name] for stage in stages}

    def _ready(self, task: Task, running: Iterable[Stage] = ()) -> list[Stage]:
        """The stages that can start now. Those that are finished already are counted on the way."""
        ready: list[Stage] = []
        for stage in self.plan.stages:  # what a stage needs stands above it
            if stage.name in self.outputs or stage in running or not stage.needs <= self.outputs.keys():
                continue
            result = self.state.result(stage)
            if result is None:
                ready.append(stage)
            else:
                self.progress.line(f"{self._title(stage)} is already finished")
                self._finish(stage, result, task)
        return ready

    def _here(self, stage: Stage, task: Task) -> None:
        self.progress.line(f"{self._title(stage)} ({stage.command})")
        config = stage.config(self.outputs)
        self.state.start(stage, config.model_dump(mode="json"))
        try:
            result = stage.step.run(config, progress=self.progress)
        except FaultError as fault:
            self.state.fail(stage, fault)
            raise
        self.state.finish(stage, result)
        self._finish(stage, result, task)

    def _side_by_side(self, task: Task) -> None:
        """Runs what has a share of the cores, until nothing of it is left. If a stage fails or a signal comes, the
        others end in good order, nothing new starts, and the first error is raised."""
        events: SimpleQueue[Event] = SimpleQueue()
        running: list[Child] = []
        failure: BaseException | None = None
        asked = 0  # how often they were asked to end
        shown = Shown(self.progress)
        try:
            with signals_as_events(events):
                self._start(running, events, task)
                while running:
                    child, message = events.get()
                    if child is None:
                        failure, asked = failure or KeyboardInterrupt(), asked + 1
                        self._stop(running, asked)
                    elif "exit" not in message:
                        child.take(message)
                        shown.show(child, message)
                    else:
                        shown.close(child)
                        running.remove(child)
                        if child.outputs is not None:
                            self.state.finish(child.stage, child.outputs)
                            self._finish(child.stage, child.outputs, task)
                            if failure is None:
                                self._start(running, events, task)
                        elif failure is None:
                            failure, asked = error_of(child.stage, child.error, message["exit"]), 1
                            if isinstance(failure, FaultError):
                                self.state.fail(child.stage, failure)
                            self._stop(running, asked)
                        else:
                            failure = with_promise(failure, child, self.progress)
        finally:  # of an error here, such as a full disk: there are none otherwise
            self._stop(running, 1)
            for child in running:
                child.wait(PATIENCE_SECONDS)
        if failure is not None:
            raise failure

    def _start(self, running: list[Child], events: SimpleQueue[Event], task: Task) -> None:
        for stage in self._ready(task, [child.stage for child in running]):
            threads = self.state.threads(stage)
            if threads is None or not fits(threads, [child.threads for child in running], self.jobs):
                continue
            on = "1 thread" if threads == 1 else f"{threads} threads"
            self.progress.line(f"{self._title(stage)} ({stage.command}), on {on}")
            self.state.start(stage, stage.config(self.outputs).model_dump(mode="json"))
            running.append(Child(stage, stage.given(self.outputs), threads=threads, events=events))

    def _stop(self, running: Sequence[Child], asked: int) -> None:
        if running and asked == 1:
            names = ", ".join(child.stage.name for child in running)
            self.progress.line(f"waiting for {names} to write a checkpoint and end")
        for child in running:
            if asked > 2:
                child.kill()
            else:
                child.stop()

    def _title(self, stage: Stage) -> str:
        return f"stage {self.plan.stages.index(stage) + 1} of {len(self.plan.stages)}: {stage.name}"

    def _finish(self, stage: Stage, outputs: dict[str, Any], task: Task) -> None:
        self.outputs[stage.name] = outputs
        task.advance()


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
            return cls(path, {"format": FORMAT, "name": plan.name, "threads": {}, "stages": []})
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

    def settle(self, plan: Plan, jobs: int) -> None:
        """Gives each stage its threads, unless it has them already: a stage that is resumed computes as it began."""
        before = self.record.get("threads", {})
        for name, threads in settled(plan.stages, jobs).items():
            has_begun = any(entry["name"] == name for entry in self.record["stages"])  # before threads were kept
            before.setdefault(name, None if has_begun else threads)
        self.record["threads"] = before

    def threads(self, stage: Stage) -> int | None:
        """The stage's share; None: all cores."""
        return self.record["threads"][stage.name]

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
        entry.pop("fault", None)
        self._write()

    def finish(self, stage: Stage, result: Mapping[str, Any]) -> None:
        entry = self._entry(stage)
        assert entry is not None
        entry.update(finished_at=_now(), result=dict(result))
        self._write()

    def fail(self, stage: Stage, fault: FaultError) -> None:
        """Records the fault that a stage found, such as a gate's; the report shows it."""
        entry = self._entry(stage)
        assert entry is not None
        entry.update(finished_at=_now(), fault=fault.what)
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
