"""Files of a log, each line once: files that grow, are rotated, gzipped or copied; tables and whole JSON documents.

A file is known by its first line and by what stood where it was left, not by its name: so `app.jsonl`, renamed to
`app.jsonl.1` and then gzipped, is not read again. What is not read line by line is known by its whole content.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from assent.data.readers import MAX_DEPTH, is_deep
from assent.errors import DataError, DataFileNotFoundError

LAST_BYTES = 256
LONGEST_LINE = 16 * 2**20
"""Bytes. A longer line is counted as one that cannot be read."""
BOM = b"\xef\xbb\xbf"
"""What some programs write before the first line of UTF-8."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read: bytes (uncompressed), and a hash of the last of them."""

    offset: int
    tail: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def files_of(path: Path) -> list[Path]:
    """The file, or the files of a folder and of those in it, oldest first by name. Raises DataFileNotFoundError."""
    if not path.exists():
        raise DataFileNotFoundError(f"{path} does not exist", expected="a file or a folder of logs")
    if path.is_file():
        return [path]
    found = sorted(entry for entry in path.rglob("*") if entry.is_file() and not entry.name.startswith("."))
    if not found:
        raise DataError(f"{path} has no files", expected="logs: JSONL, JSON, CSV, Parquet, each also gzipped")
    return found


def rows_of(path: Path, places: dict[str, Place]) -> Iterator[dict[str, Any] | str | None]:
    """The file's rows that have not been read: objects, lines of text that are no JSON, None for what is neither.

    places   how far each file was read, by identity; brought up to date as the rows are taken
    Raises DataError for a file that cannot be read: cut, damaged, not UTF-8.
    """
    try:
        yield from _rows_of(path, places)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} cannot be unpacked: {error}", expected="a complete gzip file",
            fix="write it again, or take it out of the folder; one that is still being written can be read later",
        ) from None  # fmt: skip
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", fix=LEAVE_OUT) from None


LEAVE_OUT = "mend the file, or take it out of the folder"


def _rows_of(path: Path, places: dict[str, Place]) -> Iterator[dict[str, Any] | str | None]:
    suffix = next((part for part in reversed(path.suffixes) if part in READERS), None)
    if suffix is not None and not path.name.endswith(".jsonl"):
        yield from _whole(path, suffix, places)
        return
    with _opened(path) as stream:
        first = stream.readline(LONGEST_LINE)
        if not first:
            return
        start = hashlib.sha256(first).hexdigest()[:24]
        known = _continued(stream, start, places)
        offset = places[known].offset if known is not None else 0
        stream.seek(offset)
        while line := stream.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    offset += len(line)
                    line = stream.readline(LONGEST_LINE)
                offset += len(line)
                yield None
                continue
            row = _row(line.removeprefix(BOM) if offset == 0 else line)
            if not line.endswith(b"\n") and not isinstance(row, dict):
                break  # still being written: it is read next time
            offset += len(line)
            if line.strip():
                yield row
        if known is not None:
            places.pop(known)
        place = Place(offset, _tail_at(stream, offset))
        places[f"{start}-{place.tail}"] = place


def _continued(stream: IO[bytes], start: str, places: dict[str, Place]) -> str | None:
    """The identity under which the file was read so far as the furthest: same first line, same bytes where it ended."""
    same = sorted((place.offset, name) for name, place in places.items() if name.startswith(f"{start}-"))
    return next((name for offset, name in reversed(same) if _tail_at(stream, offset) == places[name].tail), None)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        is_gzipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_gzipped else path.open("rb")  # type: ignore[return-value]


def _tail_at(stream: IO[bytes], offset: int) -> str:
    start = max(0, offset - LAST_BYTES)
    stream.seek(start)
    tail = stream.read(offset - start)
    return hashlib.sha256(tail).hexdigest()[:24] if len(tail) == offset - start else "shorter"


def _row(line: bytes) -> dict[str, Any] | str | None:
    if line.lstrip()[:1] == b"{":
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return row if isinstance(row, dict) and not _is_deep(row, line) else None
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _whole(path: Path, suffix: str, places: dict[str, Place]) -> Iterator[dict[str, Any] | None]:
    identity = _content(path)
    if identity in places:
        return
    with _opened(path) as stream:
        yield from READERS[suffix](stream, path)
    places[identity] = Place(path.stat().st_size, "")


def _csv(stream: IO[bytes], path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(LONGEST_LINE)
    try:
        for row in csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")):
            yield {name: value for name, value in row.items() if name is not None and value != ""}
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason}", fix="convert the file to UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path} is no table: {error}", expected="CSV", fix=LEAVE_OUT) from None


def _parquet(stream: IO[bytes], path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no Parquet file, or is damaged: {error}", fix=LEAVE_OUT) from None


def _json(stream: IO[bytes], path: Path) -> Iterator[dict[str, Any] | None]:
    text = stream.read()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}", fix="name files of lines .jsonl") from None
    except RecursionError:
        raise DataError(f"{path}: the JSON is nested too deeply", fix=LEAVE_OUT) from None
    for row in _document(value, path):
        yield None if row is not None and _is_deep(row, text) else row


Reading = Callable[[IO[bytes], Path], Iterator[dict[str, Any] | None]]
READERS: Mapping[str, Reading] = {".csv": _csv, ".parquet": _parquet, ".json": _json}


def _is_deep(row: dict[str, Any], text: bytes) -> bool:
    """Whether the row is nested beyond what is read and kept: in few texts, so that few are walked through."""
    return text.count(b"[") + text.count(b"{") > MAX_DEPTH and is_deep(row)


def _document(value: Any, path: Path) -> Iterator[dict[str, Any] | None]:
    """Rows of a list, of the one list inside an object (`data`, `observations`, `spans`), or the object itself."""
    if isinstance(value, dict):
        lists = [
            part for name in ("observations", "data", "spans", "rows") if isinstance(part := value.get(name), list)
        ]
        value = lists[0] if lists else [value]
    if not isinstance(value, list):
        raise DataError(f"{path} holds no rows", got=type(value).__name__, expected="a list of objects, or an object")
    for row in value:
        yield row if isinstance(row, dict) else None


def _content(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:24]
