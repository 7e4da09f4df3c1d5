"""A run's folder as a case."""

from __future__ import annotations

import time
from pathlib import Path

from assent.diagnosis.case import Case, make_case
from assent.runs.files import damaged_lines
from assent.runs.folder import METRICS
from assent.runs.reading import RunView, read_run


def case_of_run(folder: str | Path) -> Case:
    """The case of a run folder of ours, finished or not. Raises RunFolderError if there is no run."""
    run = read_run(folder)
    return make_case(
        {name: (series.steps, series.values) for name, series in run.metrics.items()},
        config=run.config,
        stage=run.command,
        status=run.manifest.get("status"),
        planned_steps=run.manifest.get("facts", {}).get("planned_steps"),
        silent_seconds=_silent(run),
        reading=_reading(run.path / METRICS),
    )


def _silent(run: RunView) -> float | None:
    log = run.path / METRICS
    if run.manifest.get("status") != "running" or not log.exists():
        return None
    return max(0.0, time.time() - log.stat().st_mtime)


def _reading(log: Path) -> tuple[str, ...]:
    damaged = len(damaged_lines(log)) if log.exists() else 0
    return (f"{damaged} damaged lines of {log.name} are left out",) if damaged else ()
