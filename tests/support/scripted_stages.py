"""Stages for tests of pipelines: they wait for files instead of computing, so that nothing depends on the time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from assent.config.options import Options
from assent.errors import NonFiniteError
from assent.pipelines.steps import Step
from assent.runs.progress import Progress

PATIENCE_SECONDS = 600


class ScriptConfig(Options):
    """Says that it runs, waits, and ends as it is told."""

    output_dir: str
    """Where."""
    says: str | None = None
    """A file beside the pipeline's folder that it writes when it has begun."""
    waits_for: str | None = None
    """A file there that it waits for."""
    fails: str | None = None
    """How it ends, until there is a file `mended`: error, oserror, memory, crash, unexpected."""
    takes: dict[str, str] = Field(default_factory=dict)
    """Outputs of earlier stages."""


STEPS = {"script": Step(f"{__name__}:ScriptConfig", f"{__name__}:script", outputs=("output_dir", "file"))}


def script(config: ScriptConfig, *, progress: Progress) -> dict[str, Any]:
    folder = Path(config.output_dir)
    outside = folder.parents[1]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "calls").open("a") as calls:
        calls.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    try:
        with progress.task("script", total=2) as task:
            progress.line(f"{folder.name} has begun")
            task.advance(1, loss=0.5)
            if config.says is not None:
                (outside / config.says).write_text(str(os.getpid()))
            if config.waits_for is not None:
                wait_for(outside / config.waits_for)
            task.advance(1)
        if not (outside / "mended").exists():
            end(config.fails)
    except KeyboardInterrupt:
        (folder / "checkpoint").write_text("kept")
        raise KeyboardInterrupt(f"the same command continues {folder.name}") from None
    path = folder / "out"
    path.write_text(f"{folder.name}({','.join(Path(taken).read_text() for taken in config.takes.values())})")
    return {"output_dir": config.output_dir, "file": str(path), "lines": [path.read_text()]}


def end(how: str | None) -> None:
    if how == "error":
        raise NonFiniteError("the loss is not finite", got="NaN", fix="look at row 3")
    if how == "oserror":
        raise OSError(28, "No space left on device", "/somewhere")
    if how == "memory":
        raise MemoryError
    if how == "unexpected":
        raise KeyError("nobody thought of it")
    if how == "crash":
        os._exit(7)


def wait_for(path: Path) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"{path} never came")
        time.sleep(0.02)
