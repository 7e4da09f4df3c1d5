"""run.json rebuilt from its copy in a checkpoint: only what the checkpoint proves, and only for the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.errors import RunFolderError
from assent.runs.files import storage_errors
from assent.runs.manifest import FIELDS, FORMAT, MANIFEST, check_owner, differences, read_manifest


@dataclass(frozen=True, slots=True)
class Recorded:
    """A checkpoint that was verified. `record` is run.json as it was when that was written; older ones have none."""

    place: str
    record: Mapping[str, Any] | None


Find = Callable[[Path], Recorded | None]
"""Finds the newest checkpoint of a run's folder that is whole; None if there is no checkpoint. Raises RunFolderError if
all are damaged."""


def recovered(path: Path, identity: Mapping[str, Any], find: Find) -> tuple[dict[str, Any], list[str]]:
    """The manifest of the run in `path`, rebuilt if it is missing, damaged or not that of its checkpoints; and what to
    report of that; nothing if it is whole.

    Raises RunFolderError if no checkpoint proves that it belongs to the run of `identity` (command, config, hashes).
    """
    existing, fault = None, f"{MANIFEST} was gone"
    try:
        existing = read_manifest(path)
    except RunFolderError as error:
        if error.expected == FORMAT:  # whole, and written by another version
            raise
        if (path / MANIFEST).exists():
            fault = f"{MANIFEST} was damaged ({error.got})"
        elif not (path / "checkpoints").is_dir():
            raise
    found = find(path)
    if existing is not None and (found is None or found.record is None or _agree(existing, found.record)):
        return existing, []
    if found is None:
        raise RunFolderError(
            f"there is nothing to rebuild {path / MANIFEST} from",
            got="no checkpoint",
            expected="a checkpoint, which keeps a copy of it",
            fix="choose another --output-dir and leave --recover out",
        )
    record = found.record
    if not isinstance(record, Mapping) or not all(isinstance(record.get(n), kind) for n, kind in FIELDS.items()):
        raise RunFolderError(
            f"nothing proves which run the checkpoints in {path} belong to",
            got=f"{found.place}, written before checkpoints kept a copy of {MANIFEST}",
            expected="its command, options, and hashes of data, tokenizer and model",
            fix=f"put {MANIFEST} back from a copy, or start again in another --output-dir; the weights of the "
            f"checkpoint are in {path / found.place}",
        )
    check_owner(path, record, identity, resume=True)
    if existing is not None:
        fault = f"{MANIFEST} was not that of its checkpoints ({', '.join(differences(existing, record)) or 'start'})"
    rebuilt = {**record, "status": "running", "finished": None, "result": None}
    rebuilt.pop("stopped", None)
    hashes = ", ".join(sorted(record["hashes"]))
    return rebuilt, [
        f"{fault}: rebuilt from {found.place}",
        f"  as given now: command, options, hashes of {hashes}",
        "  as recorded: when the run was started, versions, git revision, notes and facts up to that checkpoint",
        "  not rebuilt: what was written later, such as the result of a finished run; it is made again",
    ]


def keep_damaged(path: Path) -> None:
    """Copies a file that is going to be replaced to FILE.damaged."""
    if path.exists():
        with storage_errors(path):
            path.with_name(f"{path.name}.damaged").write_bytes(path.read_bytes())


def _agree(existing: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether both are of one run that started from the same weights."""
    here, there = (one["facts"].get("start", {}) for one in (existing, record))
    return not differences(existing, record) and all(here[name] == there[name] for name in here.keys() & there.keys())
