"""The log into which a stage writes: metrics, samples, notes, progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from assent.errors import StopRun, UsageError
from assent.metrics import lookup
from assent.runs.files import append_line
from assent.runs.folder import METRICS, PREFERENCES, SAMPLES, RunFolder
from assent.runs.progress import Progress, Silent, Task

__all__ = ["Progress", "RunLog", "Task"]


Observer = Callable[[int, Mapping[str, float]], None]
"""Gets each line of metrics.jsonl with its step, in the main process: experiment trackers, the doctor's cheap rules."""


class RunLog:
    """Writes into `folder`. On processes other than the main one it only checks.

    A line's `step` is the number of updates that were done when it was written. A resumed run rewinds to it.
    """

    def __init__(self, folder: RunFolder, *, progress: Progress | None = None) -> None:
        self.folder = folder
        self._progress: Progress = progress or Silent()
        self.observers: list[Observer] = []
        self.stop: StopRun | None = None
        """The first StopRun that an observer raised. The session ends the run by it, once the step at hand is done."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line of metrics.jsonl. Raises UsageError for an undeclared name or a value that is not a number."""
        for name, value in values.items():
            lookup(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UsageError(f"metric {name} is not a number", got=repr(value), expected="an int or a float")
        if self.folder.is_main and values:
            append_line(self.folder.path / METRICS, {"step": step, **values})
            for observe in self.observers:
                try:
                    observe(step, values)
                except StopRun as stop:
                    self.stop = self.stop or stop

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes lines of samples.jsonl."""
        self._append(SAMPLES, step, rows)

    def preferences(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes lines of preferences.jsonl: what was sampled and ranked, in the layout of scores."""
        self._append(PREFERENCES, step, rows)

    def _append(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.folder.is_main:
            for row in rows:
                append_line(self.folder.path / name, {"step": step, **row} | {"step": step})

    def note(self, text: str) -> None:
        """Writes a line for people to stderr, and keeps it in run.json."""
        if self.folder.is_main:
            self._progress.line(text)
            self.folder.note(text)

    @property
    def shown(self) -> Progress:
        """What the main process shows, for parts that show tasks of their own."""
        return self._progress if self.folder.is_main else Silent()

    def progress(self, description: str, total: int | None = None, *, done: int = 0) -> AbstractContextManager[Task]:
        """A task that advances: `with log.progress("training", 100) as task: task.advance(1, loss=0.3)`."""
        return self.shown.task(description, total=total, done=done)
