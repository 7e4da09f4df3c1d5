"""A disk on which one call fails: the k-th of the calls that change something under a folder.

A call is a creation, write, fsync, rename, removal of a file or folder. What befalls it:

    ENOSPC, EIO   it raises OSError. Of a write, half of the bytes are there, and closing the file, which tries again,
                  fails too. Later calls work again.
    kill          the process is dead: neither this call nor any later one has an effect. Half of a write is there.
    power         dead too, and then all is lost that no fsync has kept: bytes that were written after a file's last
                  fsync, and names that a folder got after its own last fsync. Removals are kept, which is the worst.
    sigkill       SIGKILL to this process, which has to be a child

Nothing is fsynced in truth, so that a thousand points take seconds. Two kinds of file are not seen while they are
written: those of libraries that open them in Rust, but for safetensors. Their bytes count as lost until an fsync.
The entry of the folder itself in its parent is not watched.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import shutil
import signal
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import safetensors.torch

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
NEEDS_ROOM = ("create", "write", "fsync", "mkdir", "rename")
"""Calls that a full disk can refuse."""


class Crash(BaseException):
    """What a dead process raises in place of going on."""


@dataclass
class Entry:
    """A name that a folder got, and has not kept for good yet."""

    folder: int
    """Its inode, as the next two."""
    inode: int
    name: str
    before: str | None
    """The name it had; None if it is new."""
    replaced: Path | None
    """A link to the file whose place it took."""


class Disk:
    """A context in which the call of number `at` under `root` fails by `how`; without `at` it counts and nothing fails.

    `calls` are the calls so far, as text; `failed` is the one that failed, if it came to it.
    """

    def __init__(self, root: Path, *, at: int = 0, how: str = "kill") -> None:
        self.root, self.at, self.how = str(root), at, how
        self.calls: list[str] = []
        self.failed: str | None = None
        self.is_dead = False
        self._synced: dict[int, int] = {}
        self._entries: list[Entry] = []
        self._shadow = root.with_name(f"{root.name}.replaced")
        self._links = itertools.count()
        self._patch = pytest.MonkeyPatch()
        self._real = {name: getattr(os, name) for name in ("open", "fsync", "rename", "replace", "mkdir", "rmdir")}
        self._real |= {"unlink": os.unlink, "io": io.open, "safetensors": safetensors.torch.serialize_file}

    def __enter__(self) -> Self:
        self._synced = {(facts := path.stat()).st_ino: facts.st_size for path in self._files()}
        self._shadow.mkdir(parents=True, exist_ok=True)
        for holder in (io, builtins):
            self._patch.setattr(holder, "open", self._open)
        replacements = {"open": self._create, "fsync": self._fsync, "mkdir": self._mkdir}
        replacements |= {"rename": self._rename("rename"), "replace": self._rename("replace")}
        replacements |= {"unlink": self._remove("unlink"), "remove": self._remove("unlink")}
        replacements |= {"rmdir": self._remove("rmdir")}
        for name, replacement in replacements.items():
            self._patch.setattr(os, name, replacement)
        self._patch.setattr(safetensors.torch, "serialize_file", self._serialize)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        if self.is_dead and self.how == "power":
            self._lose()
        shutil.rmtree(self._shadow)

    def _files(self) -> list[Path]:
        return [path for path in Path(self.root).rglob("*") if path.is_file() and not path.is_symlink()]

    def _place(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The absolute path; None if it is not under the root."""
        if isinstance(path, int):
            return None
        folder = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
        whole = os.path.join(folder, os.fsdecode(path))
        return whole if whole == self.root or whole.startswith(self.root + os.sep) else None

    def _call(self, name: str, path: str, *, half: Callable[[], object] | None = None) -> None:
        """One call. `half` leaves what a call that is cut leaves."""
        if self.is_dead:
            raise Crash
        if self.how == "ENOSPC" and self.at and name not in NEEDS_ROOM:
            return
        self.calls.append(f"{name} {os.path.relpath(path, self.root)}")
        if len(self.calls) != self.at:
            return
        self.failed = self.calls[-1]
        if half is not None:
            half()
        if self.how == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how in ERRORS:
            raise OSError(ERRORS[self.how], os.strerror(ERRORS[self.how]), path)
        self.is_dead = True
        raise Crash

    def _got(self, path: str, *, before: str | None = None, replaced: Path | None = None) -> None:
        facts, folder = os.lstat(path), os.stat(os.path.dirname(path)).st_ino
        if before is None and stat.S_ISREG(facts.st_mode):
            self._synced[facts.st_ino] = 0
        self._entries.append(Entry(folder, facts.st_ino, os.path.basename(path), before, replaced))

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **named: Any) -> Any:
        place = self._place(file)
        if place is None or not set(mode) & set("wax+") or named.get("opener") or len(args) > 3:
            return self._real["io"](file, mode, buffering, *args, **named)
        is_new = not os.path.exists(place)
        if is_new or "w" in mode:
            self._call("create", place)
        raw = _Raw(place, mode.replace("t", ""), self)
        if is_new:
            self._got(place)
        elif "w" in mode:
            self._synced[os.stat(place).st_ino] = 0
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffer
        names = ("encoding", "errors", "newline")
        return io.TextIOWrapper(buffer, **{**dict(zip(names, args, strict=False)), **named})

    def write(self, raw: _Raw, data: Any) -> int:
        """What `raw.write` does. A dead process's bytes go nowhere."""
        if self.is_dead:
            return len(data)
        if raw.failed is not None:
            raise raw.failed
        try:
            self._call("write", str(raw.name), half=lambda: io.FileIO.write(raw, bytes(data)[: len(data) // 2]))
        except OSError as error:
            raw.failed = error
            raise
        return io.FileIO.write(raw, data)

    def _create(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = self._place(path, dir_fd)
        is_new = place is not None and flags & os.O_CREAT and not os.path.exists(place)
        if is_new and place is not None:
            self._call("create", place)
        descriptor: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if is_new and place is not None:
            self._got(place)
        return descriptor

    def _serialize(self, tensors: Any, filename: Any, **named: Any) -> None:
        place = self._place(filename)
        if place is None:
            return self._real["safetensors"](tensors, filename, **named)

        def write() -> None:
            self._real["safetensors"](tensors, filename, **named)
            self._got(place)

        def half() -> None:
            write()
            os.truncate(place, os.stat(place).st_size // 2)

        try:
            self._call("create", place)
            self._call("write", place, half=half)
        except OSError as error:  # the library drops the number
            raise safetensors.SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from None
        write()

    def _fsync(self, descriptor: int) -> None:
        place = self._place(os.readlink(f"/proc/self/fd/{descriptor}"))
        if place is None:
            return self._real["fsync"](descriptor)
        self._call("fsync", place)
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            self._entries = [entry for entry in self._entries if entry.folder != facts.st_ino]
        else:
            self._synced[facts.st_ino] = facts.st_size

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        place = self._place(path, dir_fd)
        is_new = place is not None and not os.path.exists(place)
        if is_new and place is not None:
            self._call("mkdir", place)
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        if is_new and place is not None:
            self._got(place)

    def _rename(self, name: str) -> Callable[..., None]:
        def rename(before: Any, after: Any, **named: Any) -> None:
            old, new = self._place(before), self._place(after)
            if old is None or new is None:
                return self._real[name](before, after, **named)
            self._call("rename", new)
            replaced = None
            if os.path.isfile(new):
                replaced = self._shadow / str(next(self._links))
                os.link(new, replaced)
            self._real[name](before, after, **named)
            self._got(new, before=os.path.basename(old), replaced=replaced)

        return rename

    def _remove(self, name: str) -> Callable[..., None]:
        def remove(path: Any, *, dir_fd: int | None = None) -> None:
            place = self._place(path, dir_fd)
            if place is not None and os.path.lexists(place):
                self._call("remove", place)
            self._real[name](path, dir_fd=dir_fd)

        return remove

    def _lose(self) -> None:
        """Takes from the folder what no fsync has kept."""
        for entry in reversed(self._entries):
            folders = [Path(self.root), *(path for path in Path(self.root).rglob("*") if path.is_dir())]
            folder = next((path for path in folders if path.stat().st_ino == entry.folder), None)
            if folder is None or not os.path.lexists(folder / entry.name):
                continue
            found = folder / entry.name
            if found.lstat().st_ino != entry.inode:
                continue
            if entry.before is not None:
                found.rename(folder / entry.before)
            elif found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink()
            if entry.replaced is not None:
                os.link(entry.replaced, found)
        for path in self._files():
            os.truncate(path, min(path.stat().st_size, self._synced.get(path.stat().st_ino, 0)))


class _Raw(io.FileIO):
    """A file whose every write is a call of the disk."""

    def __init__(self, path: str, mode: str, disk: Disk) -> None:
        super().__init__(path, mode.replace("b", ""))
        self._disk = disk
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        return self._disk.write(self, data)
