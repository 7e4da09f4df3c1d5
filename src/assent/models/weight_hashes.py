"""Hashes of weight files: of their bytes, and of the tensors in them, however they are split into files.

The second follows from the first. So it is kept in the user's cache under the first, and weights whose bytes this
process has hashed already are not hashed once more for their content.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from safetensors import safe_open

from assent.runs.files import from_json, sha256_of, user_cache, write_json

Stamp = tuple[Path, int, int]
"""A file with its time and size: with new content it has another stamp."""

_hashed: dict[Stamp, str] = {}
"""SHA-256 of the weight files that this process has read."""


def hash_of_file(file: Path) -> str:
    """SHA-256 of a file's bytes, read anew each time."""
    stamp = _stamp(file)
    found = sha256_of(file)
    if file.suffix == ".safetensors" and stamp == _stamp(file):
        _hashed[stamp] = found
    return found


def content_of(folder: Path) -> str:
    """SHA-256 over names, types, shapes and bytes of a folder's weights, 16 hex digits, however the files are split."""
    return _content_of(tuple(map(_stamp, sorted(folder.glob("*.safetensors")))))


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return file, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=16)
def _content_of(files: tuple[Stamp, ...]) -> str:
    """Cached, because several checks need the same base."""
    import torch

    path = _path(files)
    if (kept := _read(path)) is not None:
        return kept
    where: dict[str, Path] = {}
    for file, *_ in files:
        with safe_open(file, framework="pt") as stored:
            where |= dict.fromkeys(stored.keys(), file)
    digest = hashlib.sha256()
    for name in sorted(where):
        with safe_open(where[name], framework="pt") as stored:
            tensor = stored.get_tensor(name)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    found = digest.hexdigest()[:16]
    _write(path, found)
    return found


def _path(files: tuple[Stamp, ...]) -> Path | None:
    """Where the content is kept; None if the bytes of a file are not known."""
    if not files or not all(file in _hashed for file in files):
        return None
    named = "\n".join(_hashed[file] for file in files)  # a tensor in two files is the last one's
    try:
        return user_cache() / "contents" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"
    except RuntimeError:  # no home folder
        return None


def _read(path: Path | None) -> str | None:
    """None if nothing is kept, or something else than a content."""
    try:
        stored = from_json(path.read_bytes() if path else b"{}")
        content = stored["content"]
        return content if isinstance(content, str) and stored["sha256"] == _seal(path, content) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(path: Path | None, content: str) -> None:
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"content": content, "sha256": _seal(path, content)})
    except OSError:  # a cache that cannot be written is no fault
        return


def _seal(path: Path | None, content: str) -> str:
    """Stands in the file, so that a damaged one is not believed, nor one under another's name."""
    return hashlib.sha256(f"{path.name if path else ''} {content}".encode()).hexdigest()
