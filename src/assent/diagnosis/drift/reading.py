"""Rows of logs and of a baseline: every row is used, or counted with the reason why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from assent.diagnosis.drift.encoding import hash_of
from assent.diagnosis.drift.files import Place, files_of, rows_of
from assent.diagnosis.drift.formats import UNPAIRED, Reader
from assent.diagnosis.drift.served import Served, Unreadable, make
from assent.errors import DataError
from assent.runs.files import sha256_of
from assent.runs.folder import SAMPLES
from assent.runs.manifest import MANIFEST

NO_OBJECT = "a line that is no JSON object"


def read_logs(path: Path, reader: Reader, *, places: dict[str, Place], refused: Counter[str]) -> Iterator[Served]:
    """Rows that have not been read, file by file. `refused` counts the others by reason."""
    for file in files_of(path):
        for row in rows_of(file, places):
            if (served := _used(partial(_read, reader, row), refused)) is not None:
                yield served
    for known in reader.rest():
        if (served := _used(partial(make, **known), refused)) is not None:
            yield served


def _read(reader: Reader, row: Mapping[str, Any] | str | None) -> Served | None:
    if row is None:
        raise Unreadable(NO_OBJECT)
    return reader.read_text(row) if isinstance(row, str) else reader.read(row)


def _used(read: Callable[[], Served | None], refused: Counter[str]) -> Served | None:
    try:
        return read()
    except Unreadable as reason:
        refused[str(reason)] += 1
    except (TypeError, AttributeError, KeyError, RecursionError):  # a field that is not what its format says
        refused["a row whose fields are of another kind than their names say"] += 1
    return None


def read_baseline(path: Path, *, columns: Mapping[str, str], most: int) -> tuple[list[Served], Counter[str]]:
    """The rows of the release, at most so many: those with the smallest hash. Raises DataError if there are none."""
    source = _samples_of(path)
    refused: Counter[str] = Counter()
    kept: list[tuple[int, int, Served]] = []
    reader = Reader(columns)
    for place, row in enumerate(read_logs(source, reader, places={}, refused=refused)):
        kept.append((hash_of(row.prompt, row.completion, row.time), place, row))
        if len(kept) >= 2 * most:
            kept = sorted(kept, key=lambda one: one[:2])[:most]
    kept = sorted(kept, key=lambda one: one[:2])[:most]
    if unpaired := reader.num_unpaired + reader.num_waiting:  # nothing more is read of a baseline
        refused[UNPAIRED] += unpaired
    if not kept:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in refused.most_common(3)) or "no rows"
        raise DataError(
            f"no row of {source} can be read", got=reasons, expected="prompt and completion in each row",
            fix="--columns THEIRS=prompt,THEIRS=completion names the fields",
        )  # fmt: skip
    return [row for _, _, row in sorted(kept, key=lambda one: one[1])], refused


def _samples_of(path: Path) -> Path:
    """samples.jsonl of a run's folder; any other path is itself."""
    if (path / MANIFEST).is_file():
        if not (path / SAMPLES).is_file():
            raise DataError(f"{path} is a run without {SAMPLES}", fix="give logs of the days after the release")
        return path / SAMPLES
    return path


def content_of(path: Path) -> str:
    """A hash of all files' contents: whether a baseline is still the one that a state was made with."""
    return f"{hash_of(*(sha256_of(file) for file in files_of(_samples_of(path)))):016x}"
