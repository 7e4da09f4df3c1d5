"""Reads a run folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assent.errors import RunFolderError
from assent.runs.files import as_number, bytes_of, from_json, read_lines, read_lines_and_damage
from assent.runs.folder import METRICS, SAMPLES
from assent.runs.manifest import FIELDS, MANIFEST, RECOVER


@dataclass(frozen=True, slots=True)
class Series:
    """One metric over the run: `values[i]` was written after `steps[i]` updates."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def first(self) -> float:
        return self.values[0]

    @property
    def last(self) -> float:
        return self.values[-1]

    @property
    def span(self) -> tuple[int, int]:
        """First and last step."""
        return self.steps[0], self.steps[-1]

    def __len__(self) -> int:
        return len(self.values)

    def tail(self, count: int) -> Series:
        """The last `count` values."""
        return Series(self.steps[-count:], self.values[-count:])

    def head(self, count: int) -> Series:
        """The first `count` values."""
        return Series(self.steps[:count], self.values[:count])


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it is on disk. `manifest` is run.json."""

    path: Path
    manifest: dict[str, Any]
    metrics: dict[str, Series]
    samples: list[dict[str, Any]] = field(repr=False)

    @property
    def command(self) -> str:
        return self.manifest["command"]

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    @property
    def is_finished(self) -> bool:
        return self.manifest["status"] == "finished"

    @property
    def is_stopped(self) -> bool:
        """A finding ended it; the same command with --no-stop would go on."""
        return self.manifest["status"] == "stopped"

    @property
    def result(self) -> dict[str, Any] | None:
        return self.manifest.get("result")

    @property
    def notes(self) -> list[str]:
        return self.manifest["notes"]


def read_run(folder: str | Path) -> RunView:
    """Reads a run folder, finished or not, without locking it. Raises RunFolderError if there is no run."""
    path = Path(folder)
    metrics, _ = read_metrics(path / METRICS)
    return RunView(path, read_manifest(path), metrics, read_lines(path / SAMPLES))


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """run.json. Raises RunFolderError if there is none, or a damaged one."""
    path = Path(folder)
    try:
        manifest = from_json(bytes_of(path / MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(
            f"{path} is not a run folder", got="no run.json", expected="the --output-dir of an earlier command"
        ) from None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise RunFolderError(f"{path / 'run.json'} is damaged", got=error, fix=RECOVER) from error
    if not isinstance(manifest, dict):
        raise RunFolderError(
            f"{path / 'run.json'} is damaged", got=type(manifest).__name__, expected="an object", fix=RECOVER
        )
    kinds = {**FIELDS, "result": dict | None}
    if wrong := [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]:
        raise RunFolderError(
            f"{path / 'run.json'} is damaged", got=f"no {', '.join(wrong)}", expected="the record of a run", fix=RECOVER
        )
    return manifest


def read_metrics(log: Path) -> tuple[dict[str, Series], int]:
    """Every metric of a log, and how many damaged lines were left out: a resumed run puts them aside."""
    columns: dict[str, tuple[list[int], list[float]]] = {}
    rows, damaged = read_lines_and_damage(log)
    for row in rows:
        step = row.pop("step", None)
        if type(step) is not int or step < 0:
            damaged += 1
            continue
        for name, raw in row.items():
            value = raw if type(raw) is float else as_number(raw)
            if value is not None:
                steps, values = columns.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return {name: Series(tuple(steps), tuple(values)) for name, (steps, values) in columns.items()}, damaged
