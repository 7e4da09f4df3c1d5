"""Work that is cut into shards: a manifest with hashes, a file for each shard that is whole or absent, joined in order.

    shards/manifest.json    the rows of each shard, and the SHA-256 of their content
    shards/00003.jsonl      what the work on shard 3 gave: a record on each line, and a seal on the last
    shards/failures.jsonl   tries that failed, with the reason
    shards/.00003.lock      held by the process that works on the shard

A shard's file is renamed into place when its bytes are on the disk. Its seal holds their SHA-256.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from assent.errors import RunError, RunFolderError
from assent.runs.files import append_line, from_json, fsync, read_lines, replacing, storage_errors, to_json, write_json
from assent.runs.folder import SHARDS as FOLDER
from assent.runs.folder import lock_folder

MANIFEST, FAILURES, FORMAT = "manifest.json", "failures.jsonl", 1
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows `first` to `last` (not included) of the input."""

    number: int
    first: int
    last: int
    sha256: str
    """Of the rows' content."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A row that could not be worked on, and why."""

    source: str
    error: str


@dataclass(slots=True)
class Done:
    """What the work on some rows gave. `reports`: what it says of them, as JSON; rows that it refused, say.

    A row kept `apart` is tried again by the same command; a refused one would be refused again.
    """

    records: list[Record]
    costs: dict[str, float] = field(default_factory=dict)
    apart: list[Apart] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)


def cut(rows: int, *, shards: int, unit: int) -> list[tuple[int, int]]:
    """`shards` parts of nearly equal size, each beginning at a multiple of `unit`. Fewer, if there are fewer units."""
    units = -(-rows // unit)
    number = min(shards, units)
    starts = [i * units // number * unit for i in range(number)]
    return list(zip(starts, [*starts[1:], rows][:number], strict=True))


class Shards:
    """The shards of one run's folder."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder / FOLDER
        self.shards = [Shard(**one) for one in manifest["shards"]]
        self.facts: Mapping[str, Any] = manifest["facts"]
        """What else was decided when the work was cut, such as the number of threads."""

    @classmethod
    def open(
        cls,
        folder: Path,
        parts: Sequence[tuple[int, int]],
        *,
        digest: Callable[[int, int], str],
        facts: Mapping[str, Any],
        again: bool = True,
    ) -> Shards:
        """Reads the manifest, or writes it if there is none. The run folder's lock must be held.

        digest   SHA-256 of rows `first` to `last`
        again    the number of shards was chosen, and must be that of the manifest; False: any manifest will do

        Raises RunFolderError if the manifest is damaged, cuts the rows in another way, or is of other rows.
        """
        path = folder / FOLDER / MANIFEST
        known = cls.of(folder)
        if known is None:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                fsync(folder)
            shards = [Shard(i, first, last, digest(first, last)) for i, (first, last) in enumerate(parts)]
            manifest = {"format": FORMAT, "facts": dict(facts), "shards": [asdict(shard) for shard in shards]}
            write_json(path, manifest)
            return cls(folder, manifest)
        if again and [(one.first, one.last) for one in known.shards] != list(parts):
            raise RunFolderError(
                f"the work in {folder} was cut into another number of shards",
                got=len(parts),
                expected=len(known.shards),
                fix=f"give --num-shards {len(known.shards)}, or choose another --output-dir",
            )
        changed = [one.number for one in known.shards if digest(one.first, one.last) != one.sha256]
        if changed:
            raise RunFolderError(
                f"the rows are not those of {path}",
                got=f"{len(changed)} of {len(known.shards)} shards differ, the first of them {changed[0]}",
                fix="restore the data that the run was started with, or choose another --output-dir",
            )
        return known

    @classmethod
    def of(cls, folder: Path) -> Shards | None:
        """The shards of a run's folder; None if it has none. Raises RunFolderError if the manifest is damaged."""
        path = folder / FOLDER / MANIFEST
        if not path.exists():
            return None
        try:
            manifest = from_json(path.read_bytes())
            if manifest["format"] != FORMAT:
                raise ValueError(f"format {manifest['format']}")
            return cls(folder, manifest)
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{path} is damaged", got=error, fix=f"put it back from a copy, or delete {path.parent} to start over"
            ) from error

    def path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.number:05d}.jsonl"

    @contextmanager
    def claimed(self, shard: Shard) -> Iterator[bool]:
        """Whether this process may work on the shard: no other one does. A process that ends loses its claims."""
        owner = f"{socket.gethostname()} {os.getpid()}"
        try:
            lock = lock_folder(self.folder, name=self._lock(shard), text=owner, wait_seconds=1.0)
        except RunFolderError:
            yield False
            return
        with lock:
            yield True

    def _lock(self, shard: Shard) -> str:
        return f".{shard.number:05d}.lock"

    def is_claimed(self, shard: Shard) -> bool:
        """Whether some process works on the shard."""
        try:
            with (self.folder / self._lock(shard)).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def write(self, shard: Shard, done: Done) -> None:
        """Writes the shard's file, whole or not at all. Raises StorageError."""
        path, digest = self.path(shard), hashlib.sha256()
        with storage_errors(path), replacing(path) as temporary, temporary.open("wb") as stream:
            for record in done.records:
                line = to_json(record).encode() + b"\n"
                digest.update(line)
                stream.write(line)
            seal = {
                "rows": shard.sha256,
                "records": len(done.records),
                "costs": done.costs,
                "apart": [asdict(row) for row in done.apart],
                "reports": done.reports,
                "sha256": digest.hexdigest(),
            }
            stream.write(to_json({"seal": seal}).encode() + b"\n")

    def failed(self, shard: Shard, reason: str) -> None:
        """Writes down that a try failed."""
        append_line(self.folder / FAILURES, {"shard": shard.number, "reason": reason})

    def seal(self, shard: Shard) -> dict[str, Any] | None:
        """The seal of the shard's file, every byte of which agrees with it; None if there is no such file."""
        digest, last = hashlib.sha256(), b""
        try:
            with self.path(shard).open("rb") as stream:
                for line in stream:
                    digest.update(last)
                    last = line
            seal = from_json(last)["seal"]
            whole = seal["sha256"] == digest.hexdigest() and seal["rows"] == shard.sha256
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return dict(seal) if whole else None

    def is_done(self, shard: Shard) -> bool:
        """Whether the shard's file is whole and no row was kept apart."""
        seal = self.seal(shard)
        return seal is not None and not seal["apart"]

    def records(self, *, each: Callable[[Shard, dict[str, Any]], None] | None = None) -> Iterator[Record]:
        """All records in order, one shard at a time. `each` gets every shard with its seal.

        Raises RunError if a shard's file is damaged.
        """
        for shard in self.shards:
            seal = self.seal(shard)
            if seal is None:
                raise RunError(
                    f"{self.path(shard)} is missing or damaged", fix="repeat the command: it takes this shard again"
                )
            if each is not None:
                each(shard, seal)
            with self.path(shard).open("rb") as stream:
                for _, line in zip(range(seal["records"]), stream, strict=False):
                    yield from_json(line)

    def status(self) -> dict[str, Any]:
        """`done`, `running`, `waiting`: numbers of shards; `failed`: number to last reason, of those not done; `apart`:
        the rows that were kept apart."""
        reasons = {row["shard"]: row["reason"] for row in read_lines(self.folder / FAILURES)}
        found: dict[str, Any] = {"shards": len(self.shards), "done": [], "running": [], "waiting": [], "failed": {}}
        found["apart"] = []
        for shard in self.shards:
            seal = self.seal(shard)
            if seal is not None:
                found["done"].append(shard.number)
                found["apart"] += seal["apart"]
                continue
            found["running" if self.is_claimed(shard) else "waiting"].append(shard.number)
            if shard.number in reasons:
                found["failed"][shard.number] = reasons[shard.number]
        return found


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """The status as text for people."""
    counts = ", ".join(f"{len(status[name])} {name}" for name in ("done", "running", "waiting"))
    lines = [f"{status['shards']} shards: {counts}"]
    if status["running"]:
        lines.append("  running: " + _numbers(status["running"]))
    lines += [f"  shard {number} failed: {reason}" for number, reason in list(status["failed"].items())[:5]]
    lines += [f"  kept apart: {row['source']}: {row['error']}" for row in status["apart"][:5]]
    if (more := len(status["apart"]) - 5) > 0:
        lines.append(f"  kept apart: {more} more rows")
    return lines


def _numbers(numbers: Iterable[int]) -> str:
    listed = list(numbers)
    return ", ".join(map(str, listed[:10])) + (" …" if len(listed) > 10 else "")
