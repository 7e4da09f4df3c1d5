"""Files that are either complete or absent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assent.errors import RunFolderError, StorageError

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
        raise StorageError(f"cannot write {path}", got=str(error), fix=_remedy(error)) from error


def _remedy(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EROFS or f"(os error {errno.EROFS})" in str(error):
        return "the file system is read-only: choose another --output-dir, or mount it for writing"
    if number == errno.EIO or f"(os error {errno.EIO})" in str(error):
        return "the disk reports errors: check it; the last checkpoint is intact as far as it can be read"
    return "make room; the last checkpoint is intact, and the same command resumes from it"


def user_cache() -> Path:
    """ASSENT_CACHE, or `assent` in the user's cache folder."""
    return Path(os.environ.get("ASSENT_CACHE") or Path.home() / ".cache" / "assent")


def fsync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_logs(folder: Path) -> None:
    """Waits until the lines of a run's logs are on the disk, and the names in its folder. Raises StorageError."""
    with storage_errors(folder):
        for path in (*folder.glob("*.jsonl"), folder):
            fsync(path)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON to `path` atomically: readers see the old file or the new one. Raises StorageError."""
    with storage_errors(path):
        _replace(path, to_json(value, indent=2) + "\n")


def write_text(path: Path, text: str, *, what: str) -> None:
    """Replaces `path` by the text, atomically. Raises StorageError, which says that `what` cannot be written."""
    try:
        _replace(path, text)
    except OSError as error:
        raise StorageError(f"{what} cannot be written", got=error) from error


def _replace(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` after the block, or goes if the block fails.

    Until it has its name only its owner can read it, and then those whom `mode` names.

    Its bytes are on the disk before it has its name: after a crash there is the old file or the new one. What killed
    processes have left under such names is removed; a file that another process writes is locked, and stays.
    """
    remove_left_behind(path.parent, f".{path.name}.", ".tmp")
    with claimed(lambda: _new_file_beside(path)) as temporary:
        try:
            yield temporary
            fsync(temporary)
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    fsync(path.parent)


def _new_file_beside(path: Path) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    return Path(name)


@contextmanager
def claimed(make: Callable[[], Path]) -> Iterator[Path]:
    """The file or folder that `make` creates, under a lock: `remove_left_behind` of other processes leaves it alone.

    It may be renamed meanwhile. A process that dies has no locks.
    """
    while True:
        path = make()
        with contextlib.suppress(FileNotFoundError):  # removed before it was locked: another is made
            descriptor = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks: nothing is removed there
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():
                break
            os.close(descriptor)
    try:
        yield path
    finally:
        os.close(descriptor)


def remove_left_behind(folder: Path, start: str, end: str = "") -> None:
    """Removes the files and folders, by start and end of their names, that no process has locked."""
    for name in os.listdir(folder) if folder.is_dir() else []:
        path = folder / name
        if not (name.startswith(start) and name.endswith(end)) or path.is_symlink():
            continue
        with contextlib.suppress(OSError):  # in use, gone meanwhile, or not ours to remove
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def append_line(path: Path, value: Any) -> None:
    """Appends `value` as one line of JSON. A line cut by a crash is dropped when the file is next read or rewound."""
    with storage_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(to_json(value) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The file's lines that are whole; none if there is no file. Those that are not JSON objects are left out."""
    return [row for row, _ in _lines(path) if row is not None]


def read_lines_and_damage(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The file's lines that are JSON objects, and the number of those that are not; a last line that is cut is no
    damage."""
    rows = [row for row, _ in _lines(path)]
    whole = [row for row in rows if row is not None]
    return whole, len(rows) - len(whole)


def bytes_of(path: Path) -> bytes:
    """A file's content. Raises RunFolderError for a pipe or a device, which may never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise RunFolderError(f"{path} is a pipe or a device, not a file")
    return path.read_bytes()


def put_aside_damage(path: Path, is_ours: Callable[[dict[str, Any]], bool], *, with_rest: bool = False) -> list[str]:
    """Copies the lines that are not JSON objects, or not `is_ours`, to FILE.damaged as they are; says so.

    The rest after the last newline is a line that a crash has cut, and no damage, unless `with_rest`.
    """
    found = enumerate(_lines(path), start=1)
    lines = [(number, line) for number, (row, line) in found if row is None or not is_ours(row)]
    if with_rest and (rest := path.read_bytes().rpartition(b"\n")[2]):
        lines.append((len(_lines(path)) + 1, rest))
    if not lines:
        return []
    with storage_errors(path), path.with_name(f"{path.name}.damaged").open("ab") as stream:
        stream.writelines(line + b"\n" for _, line in lines)
    numbers = ", ".join(str(number) for number, _ in lines[:5]) + (" …" if len(lines) > 5 else "")
    return [f"{path.name}: damaged lines ({numbers}) were put aside in {path.name}.damaged: {len(lines)} of them"]


def _lines(path: Path) -> list[tuple[dict[str, Any] | None, bytes]]:
    if not path.exists():
        return []
    lines = bytes_of(path).split(b"\n")[:-1]
    return [(_object(line), line) for line in lines]


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = from_json(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def keep_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes these lines as the whole file, atomically."""
    with storage_errors(path):
        _replace(path, "".join(to_json(row) + "\n" for row in rows))


def file_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file in a folder, but for README.md, which others may write anew."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files
    }


def damage_of(folder: Path, facts: Mapping[str, Mapping[str, Any]], *, sizes_only: bool = False) -> str | None:
    """How the folder differs from its `file_facts`; None if it does not."""
    for name, expected in facts.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"] or not (sizes_only or sha256_of(path) == expected["sha256"]):
            return f"{name} is damaged"
    return None


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
        try:
            return float(value)
        except OverflowError:  # an integer of hundreds of digits
            return math.inf if value > 0 else -math.inf
    return float(value) if value in ("nan", "inf", "-inf") else None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
