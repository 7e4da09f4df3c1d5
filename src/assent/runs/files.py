"""Files that are either complete or absent."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assent.errors import StorageError

_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def is_storage_fault(error: BaseException) -> bool:
    """Whether the disk is full or failing: by error number, or by message where a library (safetensors) drops it."""
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        return True
    return any(f"(os error {number})" in str(error) for number in _STORAGE_ERRORS)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raises StorageError, which names `path`, if the disk is full or failing. Other errors pass."""
    try:
        yield
    except Exception as error:
        if not is_storage_fault(error) or isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot write {path}",
            got=str(error),
            fix="make room; the last checkpoint is intact, and the same command resumes from it",
        ) from error


def fsync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON to `path` atomically: readers see the old file or the new one. Raises StorageError."""
    text = to_json(value, indent=2) + "\n"
    with storage_errors(path):
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        fsync(path.parent)


def write_text(path: Path, text: str, *, what: str) -> None:
    """Replaces `path` by the text, atomically. Raises StorageError, which says that `what` cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{what} cannot be written", got=error) from error


def append_line(path: Path, value: Any) -> None:
    """Appends `value` as one line of JSON. A line cut by a crash is dropped when the file is next read or rewound."""
    with storage_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(to_json(value) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The file's lines, up to the first one that a crash has cut; none if there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:  # the rest after the last newline is a line that was cut
        try:
            rows.append(from_json(line))
        except ValueError:
            break
    return rows


def keep_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes these lines as the whole file, atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        with temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(to_json(row) + "\n" for row in rows)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Standard JSON, which has no NaN and no infinities: they become the strings "nan", "inf" and "-inf"."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def from_json(text: str | bytes) -> Any:
    return json.loads(text)


def as_number(value: Any) -> float | None:
    """The number that `to_json` wrote; None for a value that is not a number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    return float(value) if value in ("nan", "inf", "-inf") else None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
