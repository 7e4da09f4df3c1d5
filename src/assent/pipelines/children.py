"""Stages that run side by side, each in a process of its own (child.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from queue import SimpleQueue
from types import FrameType
from typing import Any

from assent import errors
from assent.errors import AssentError, RunError, StopRun
from assent.pipelines.plan import Stage
from assent.runs.files import from_json, to_json
from assent.runs.progress import Progress, Task

Event = tuple["Child | None", dict[str, Any]]
"""A child's message; None and no message: a signal has come."""
PATIENCE_SECONDS = 60.0
"""A child that is still there so long after the pipeline has failed in itself is killed."""


class Child:
    """A running stage. Its messages go to `events`; the last one is {"exit": status}."""

    def __init__(self, stage: Stage, options: Mapping[str, Any], *, threads: int, events: SimpleQueue[Event]) -> None:
        self.stage, self.threads, self._events = stage, threads, events
        self.outputs: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        # -P, and what this process finds: a file json.py in the working folder is nobody's library
        found = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": found}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "assent.pipelines.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C at the terminal reaches the parent alone, which then asks each child once
        )
        request = {"name": stage.name, "step": asdict(stage.step), "options": dict(options)}
        with suppress(BrokenPipeError):  # it has died already, and `_listen` says so
            assert self._process.stdin is not None
            self._process.stdin.write(to_json(request).encode() + b"\n")
            self._process.stdin.flush()
        threading.Thread(target=self._listen, daemon=True).start()

    def take(self, message: Mapping[str, Any]) -> None:
        """Keeps what its last messages bring."""
        self.outputs = message.get("outputs", self.outputs)
        self.error = message.get("error", self.error)

    def stop(self) -> None:
        """Asks it to end in good order, with a checkpoint. Asked again, it ends at once."""
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def _listen(self) -> None:
        process = self._process
        assert process.stdout is not None
        others = threading.Thread(target=self._pass_on, daemon=True)
        others.start()
        for line in process.stdout:
            try:
                message = from_json(line)
            except ValueError:  # empty, or a message that a signal has cut
                continue
            self._events.put((self, message))
            if "outputs" in message or "error" in message:  # the last one, whoever else holds this pipe open
                break
        others.join(1.0)  # not longer: a process that the child has left behind may hold it open
        self._events.put((self, {"exit": process.wait()}))

    def _pass_on(self) -> None:
        """What libraries print."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._events.put((self, {"line": line.decode(errors="replace").rstrip()}))


class Shown:
    """The progress of the running stages: one line each, that of the task which began last."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: dict[str, tuple[int, Task, ExitStack]] = {}

    def show(self, child: Child, message: Mapping[str, Any]) -> None:
        name = child.stage.name
        if "line" in message:
            self._progress.line(f"{name}: {message['line']}")
        elif "task" in message:
            self.close(child)
            description = message["description"]
            stack = ExitStack()
            task = stack.enter_context(
                self._progress.task(
                    name if description in (name, child.stage.command) else f"{name}: {description}",
                    total=message["total"],
                    done=message["done"],
                    keep=False,
                )
            )
            self._open[name] = message["task"], task, stack
        elif name in self._open and self._open[name][0] in (message.get("advance"), message.get("ended")):
            if "ended" in message:
                self.close(child)
            else:
                self._open[name][1].advance(message["by"], **message["shown"])

    def close(self, child: Child) -> None:
        if child.stage.name in self._open:
            self._open.pop(child.stage.name)[2].close()


@contextmanager
def signals_as_events(events: SimpleQueue[Event]) -> Iterator[None]:
    """Ctrl-C and SIGTERM become events: nothing is broken off between two of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def put(_: int, __: FrameType | None) -> None:
        events.put((None, {}))  # SimpleQueue.put may be called in a handler

    before = {number: signal.signal(number, put) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def with_promise(failure: BaseException, child: Child, progress: Progress) -> BaseException:
    """The failure, after which `child` was stopped. An interruption says per stage what the same command will do."""
    if child.error is None or not child.error["text"]:
        return failure
    told = f"{child.stage.name}: {child.error['text']}"
    if child.error["kind"] == "KeyboardInterrupt" and isinstance(failure, KeyboardInterrupt):
        return KeyboardInterrupt("; ".join([*failure.args, told]))
    progress.line(told)
    return failure


def error_of(stage: Stage, told: Mapping[str, Any] | None, status: int) -> BaseException:
    """The error that ended a stage, as if it had been raised here. `told`: what the child said of it."""
    if told is None:
        ended_by = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return RunError(
            f"the process of stage {stage.name} ended without a word",
            got=ended_by,
            fix="if memory ran out, use --jobs 1; the same command continues from the last checkpoint",
        )
    error = _same(stage, told)
    error.add_note(f"in the process of stage {stage.name}:\n{told['traceback']}")  # shown by --debug
    return error


def _same(stage: Stage, told: Mapping[str, Any]) -> BaseException:
    kind, text = told["kind"], told["text"]
    if "finding" in told:
        return StopRun(told["finding"], step=told["step"], folder=told["folder"])
    if "what" in told:
        known: type[AssentError] = getattr(errors, kind, RunError)
        return known(told["what"], got=told["got"], expected=told["expected"], fix=told["fix"])
    if told.get("errno") is not None:
        return OSError(told["errno"], told["strerror"], told["filename"])
    if kind == "KeyboardInterrupt":
        return KeyboardInterrupt(text)
    return MemoryError(text) if kind == "MemoryError" else RuntimeError(f"stage {stage.name}: {kind}: {text}")
