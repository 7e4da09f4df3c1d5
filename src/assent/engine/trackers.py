"""Experiment trackers through Accelerate's classes: TensorBoard, W&B, MLflow, trackio, or one of your own.

Each of them gets every line of metrics.jsonl. A tracker holds a copy only: if one fails, the run says so, drops it, and
continues.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from assent.config.functions import import_function
from assent.config.trackers import TRACKERS
from assent.engine.runtime import Runtime
from assent.errors import ConfigError

PROJECT, TENSORBOARD = "assent", "tensorboard"


class Trackers:
    """The trackers of one run, as a context that finishes them at its end. Only the main process writes."""

    def __init__(self, names: Sequence[str], *, folder: Path, project: str | None, note: Callable[[str], None]) -> None:
        self._note = note
        self._made = {name: _make(name, folder, project or PROJECT) for name in names}
        self._running: dict[str, GeneralTracker] = {}
        self._new_folder = None if (folder / TENSORBOARD).exists() else folder / TENSORBOARD
        self._has_logged = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._each(lambda tracker: tracker.finish())
        self._running.clear()
        if kind is not None and self._new_folder is not None and not self._has_logged:
            shutil.rmtree(self._new_folder, ignore_errors=True)  # bad input leaves nothing behind

    def start(self, config: Mapping[str, Any], runtime: Runtime) -> None:
        """Starts them, on the main process only. Called before a model is loaded.

        Raises ConfigError if one cannot start: no login, no server, no place to write.
        """
        if not self._made or not runtime.is_main:
            return
        PartialState(cpu=runtime.device.type == "cpu")  # Accelerate's classes ask it who the main process is
        for name, tracker in self._made.items():
            try:
                tracker.start()
                self._running[name] = tracker
                tracker.store_init_configuration(_storable(config))
            except Exception as error:  # whatever the tracker's package raises
                raise ConfigError(
                    f"tracker {name} cannot start: {type(error).__name__}: {error}",
                    fix="set the tracker up, or leave it out",
                ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Passes on one line of metrics."""
        self._has_logged = True
        self._each(lambda tracker: tracker.log(dict(values), step=step))

    def _each(self, action: Callable[[GeneralTracker], None]) -> None:
        for name, tracker in list(self._running.items()):
            try:
                action(tracker)
            except Exception as error:  # whatever the tracker's package raises: the run is worth more
                del self._running[name]
                self._note(f"tracker {name} failed and is dropped: {type(error).__name__}: {error}")


def _make(name: str, folder: Path, project: str) -> GeneralTracker:
    """A tracker that has not started. Raises ConfigError if the user's own class cannot be created."""
    if name == "tensorboard":
        return LOGGER_TYPE_TO_CLASS[name](TENSORBOARD, folder)  # OUTPUT_DIR/tensorboard
    if name == "mlflow":
        return LOGGER_TYPE_TO_CLASS[name](project, run_name=folder.name)
    if name in TRACKERS:
        return LOGGER_TYPE_TO_CLASS[name](project, name=folder.name)
    kind: Any = import_function(name, what="tracker")
    if not (isinstance(kind, type) and issubclass(kind, GeneralTracker)):
        raise ConfigError("a tracker must be a subclass of accelerate's GeneralTracker", got=f"{name}: {kind!r}")
    try:
        tracker = kind(str(folder))
    except Exception as error:  # the user's own code
        raise ConfigError(
            f"tracker {name} cannot be created: {type(error).__name__}: {error}",
            expected="a class that takes the run folder's path",
        ) from error
    return tracker


def _storable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options in a form that every tracker takes: numbers and text, the rest as JSON. None is left out."""
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)
        for name, value in config.items()
        if value is not None
    }
