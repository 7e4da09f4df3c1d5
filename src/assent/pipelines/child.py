"""One stage of a pipeline, in a process of its own: torch's threads are one setting for a whole process.

`children.py` starts it. The first line on its stdin is the stage. Each line on its stdout is a JSON object: progress, a
line for people, and at last the outputs or the error. Its stdin stays open as long as the parent lives; when that ends,
the stage is interrupted as by Ctrl-C, so that a killed pipeline leaves nothing running.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from assent.config.loading import parse_options
from assent.errors import AssentError, StopRun
from assent.pipelines.steps import Step
from assent.runs.files import from_json, to_json
from assent.runs.progress import Left, Shown, Silent, Task

SECONDS_BETWEEN = 0.2
"""Between two messages about one task."""


def main() -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    parent, channel = _Parent(), _Channel()
    request = from_json(parent.line())
    parent.watch()
    try:
        step = Step(**request["step"])
        config = parse_options(step.config_class(), request["options"], where=f" of stage {request['name']}")
        channel.send(outputs=step.run(config, progress=_Reported(channel)))
    except BaseException as error:
        channel.send(error=_described(error))
        return 1
    return 0


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class _Parent:
    """What is left of stdin, once nothing else can read from it."""

    def __init__(self) -> None:
        self._from = os.dup(0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def line(self) -> bytes:
        found = b""
        while not found.endswith(b"\n") and (part := os.read(self._from, 65536)):
            found += part
        return found

    def watch(self) -> None:
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while os.read(self._from, 65536):
            pass
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nobody reads it any longer
        os.kill(os.getpid(), signal.SIGTERM)


class _Channel:
    """What was stdout. What anything else prints there goes to stderr."""

    def __init__(self) -> None:
        self._to, self._lock = os.fdopen(os.dup(1), "w", encoding="utf-8"), threading.Lock()
        os.dup2(2, 1)

    def send(self, **message: Any) -> None:
        with self._lock, suppress(BrokenPipeError):  # the parent has ended: `_Parent` interrupts this process
            self._to.write("\n" + to_json(message) + "\n")  # on a line of its own, whatever a signal has cut before
            self._to.flush()


class _Reported:
    """Progress (runs/progress.py) that the parent shows."""

    def __init__(self, channel: _Channel) -> None:
        self._channel, self._number = channel, 0

    @contextmanager
    def task(
        self,
        description: str,
        *,
        total: int | None,
        done: int = 0,
        keep: bool = True,
        left: Left | None = None,
        brief: bool = False,
    ) -> Iterator[Task]:
        assert left is None  # it is a pipeline's, and no pipeline runs in a child
        if brief:  # a stage has one line, that of the task around it
            with Silent().task(description, total=total) as silent:
                yield silent
            return
        self._number += 1
        self._channel.send(task=self._number, description=description, total=total, done=done)
        task = _Task(self._channel, self._number)
        try:
            yield task
        finally:
            task.report()
            self._channel.send(ended=self._number)

    def line(self, text: str) -> None:
        self._channel.send(line=text)


class _Task:
    def __init__(self, channel: _Channel, number: int) -> None:
        self._channel, self._number, self._new, self._last = channel, number, 0, time.monotonic()
        self._shown: dict[str, Shown] = {}

    def advance(self, n: int = 1, **shown: Shown) -> None:
        self._new, self._shown = self._new + n, shown or self._shown
        if time.monotonic() - self._last >= SECONDS_BETWEEN:
            self.report()

    def report(self) -> None:
        if self._new:
            self._channel.send(advance=self._number, by=self._new, shown=self._shown)
            self._new, self._last = 0, time.monotonic()


def _described(error: BaseException) -> dict[str, Any]:
    """What `children.py: error_of` makes the same error from."""
    found: dict[str, Any] = {"kind": type(error).__name__, "text": str(error), "traceback": traceback.format_exc()}
    if isinstance(error, AssentError):
        found |= {name: _text(getattr(error, name)) for name in ("what", "got", "expected", "fix")}
        if isinstance(error, StopRun):
            found |= {"finding": error.finding, "step": error.step, "folder": error.folder}
    elif isinstance(error, OSError):
        found |= {"errno": error.errno, "strerror": error.strerror, "filename": _text(error.filename)}
    return found


def _text(value: object) -> str | None:
    return None if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
