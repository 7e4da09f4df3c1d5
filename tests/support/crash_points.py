"""Every write, rename and fsync in a run's folder is a point at which the run can die or the disk can fail, once.

A first run counts the points. Then the run is started once for each of them: at that point it is killed, or the call
fails with ENOSPC or EIO. Half of what it would have written is on the disk by then.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.runs.manifest import step_of
from tests.support.kills import SCENARIOS, Scenario, differing, inputs_for_kills, outcome, statuses, verified_steps
from tests.support.stages import PRELOADED, Fault, _main

FAULTS = {"kill": 0, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
SHORT = {"sft": ["--max-steps", "2", "--save-steps", "1"], "dpo": ["--max-steps", "2", "--save-steps", "1"]}
"""Options of the stages, so that a run has two checkpoints."""


@dataclass(frozen=True, slots=True)
class Point:
    """A call. `newest`: the newest checkpoint that has its name by then; -1: none has."""

    what: str
    newest: int


class Disk:
    """Counts the calls that touch `folder`; the call of this number fails. Lives in the run's process."""

    def __init__(self, folder: str, *, number: int | None, fault: str) -> None:
        self.folder, self.number, self.fault = folder, number, fault
        self.points: list[Point] = []

    def install(self) -> None:
        import safetensors.torch

        open_file, fsync, replace, rename = builtins.open, os.fsync, os.replace, os.rename
        serialize = safetensors.torch.serialize_file

        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            stream = open_file(file, mode, *args, **options)
            is_ours = not isinstance(file, int) and self.is_inside(file) and set(mode) & set("wax+")
            return _Stream(stream, self, str(file)) if is_ours else stream

        def synced(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if self.is_inside(path) and self.reached("fsync", path):
                self.fail()
            fsync(descriptor)

        def replaced(source: Any, target: Any, **options: Any) -> None:
            if self.is_inside(target) and self.reached("rename", target):
                self.fail()
            replace(source, target, **options)

        def renamed(source: Any, target: Any, **options: Any) -> None:
            if self.is_inside(target) and self.reached("rename", target):
                self.fail()
            rename(source, target, **options)

        def serialized(tensors: Any, path: Any, *args: Any, **options: Any) -> None:
            fails = self.is_inside(path) and self.reached("write", path)
            serialize(tensors, path, *args, **options)
            if fails:
                os.truncate(path, os.path.getsize(path) // 2)
                self.fail(safetensors.SafetensorError)

        builtins.open = io.open = opened  # type: ignore[assignment]
        os.fsync, os.replace, os.rename = synced, replaced, renamed
        safetensors.torch.serialize_file = serialized

    def is_inside(self, path: Any) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder)

    def reached(self, kind: str, path: Any) -> bool:
        """Whether this call is the one that fails."""
        found = [step_of(name) for name in _names(os.path.join(self.folder, "checkpoints"))]
        newest = max((step for step in found if step is not None), default=-1)
        name = re.sub(r"\.\w{8}\.tmp", ".tmp", os.path.relpath(os.fsdecode(path), self.folder))
        self.points.append(Point(f"{kind} {name}", newest))
        return len(self.points) - 1 == self.number

    def fail(self, error: type[Exception] | None = None) -> None:
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = FAULTS[self.fault]
        if error is not None:
            raise error(f"I/O error: {os.strerror(number)} (os error {number})")
        raise OSError(number, os.strerror(number))


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


class _Stream:
    """An open file whose writes are points."""

    def __init__(self, stream: Any, disk: Disk, path: str) -> None:
        self._stream, self._disk, self._path = stream, disk, path

    def write(self, text: Any) -> int:
        if self._disk.reached("write", self._path):
            self._stream.write(text[: len(text) // 2])
            self._stream.flush()
            self._disk.fail()
        return int(self._stream.write(text))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Any:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _run(argv: list[str], messages: str, folder: str, number: int | None, fault: str, points: str) -> None:
    disk = Disk(folder, number=number, fault=fault)
    disk.install()
    try:
        _main(argv, messages, Fault(), {})
    finally:
        if number is None:
            Path(points).write_text(json.dumps([[point.what, point.newest] for point in disk.points]))


class CrashPoints:
    """One tiny run of a scenario, its points, and how it must end."""

    def __init__(self, name: str, folder: Path, inputs: Mapping[str, str] | None = None) -> None:
        self.scenario: Scenario = SCENARIOS[name]
        self.more, self.folder = SHORT.get(name, []), folder
        folder.mkdir(parents=True)
        self.inputs = inputs or inputs_for_kills(folder)
        whole = folder / "whole" / "run"
        assert self.start(whole) == 0, self.messages(whole).read_text()
        self.expected = outcome(self.scenario, whole)
        found = json.loads((whole.parent / "points.json").read_text())
        self.points = [Point(what, newest) for what, newest in found]

    def messages(self, folder: Path) -> Path:
        return folder.parent / "messages"

    def start(self, folder: Path, *, number: int | None = None, fault: str = "") -> int | None:
        """One run; its exit status."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        argv = [*self.scenario.argv(self.inputs, folder), *self.more]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        told = str(self.messages(folder))
        arguments = (argv, told, str(folder), number, fault, str(folder.parent / "points.json"))
        process = context.Process(target=_run, args=arguments)
        process.start()
        return statuses([process])[0]

    def fault_of(self, number: int, fault: str) -> str:
        """What is wrong after the fault at this point; empty if nothing is."""
        point, folder = self.points[number], self.folder / f"{number}-{fault}" / "run"
        where = f"{fault} at point {number} ({point.what})"
        status = self.start(folder, number=number, fault=fault)
        text = self.messages(folder).read_text()
        if status not in ((-signal.SIGKILL,) if fault == "kill" else (0, 3)):
            return f"{where}: exit status {status}: {text[-1500:]}"
        if "Traceback" in text:
            return f"{where}: a traceback: {text[-1500:]}"
        newest = verified_steps(folder).get("checkpoints", -1)
        if newest < point.newest:
            return f"{where}: checkpoint {point.newest} was there, and {newest} is the newest verified one now"
        status = self.start(folder, number=len(self.points) * 9, fault="kill")  # no point has this number
        if status != 0:
            return f"{where}: it cannot be resumed: exit status {status}: {self.messages(folder).read_text()[-1500:]}"
        found = outcome(self.scenario, folder)
        different = differing(found, self.expected)
        return f"{where}: not the same to the bit: {', '.join(different)}" if different else ""


def spread(points: Sequence[Point], number: int) -> list[int]:
    """So many points, evenly spaced among those that differ in what they do."""
    first = list({point.what: i for i, point in reversed(list(enumerate(points)))}.values())
    ordered = sorted(first)
    step = max(1, len(ordered) // number)
    return ordered[step // 2 :: step][:number]
