"""A run folder: which run it belongs to, whether the run is finished, and the lock that keeps a second process out.

run.json        manifest: configuration, versions, git revision, hashes, parent runs, notes, result
metrics.jsonl   one line per logged step          samples.jsonl   prompts and completions to look at
preferences.jsonl   online-dpo: what was sampled and scored
judgements.jsonl    eval: the answers of judges at an address
findings.json   the findings of the doctor's rules
checkpoints/    step-N/, written by the engine    model/          the result, an ordinary Hugging Face folder
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

from assent.errors import RunFolderError, UsageError
from assent.runs.environment import git_revision, versions
from assent.runs.files import (
    damage_of,
    damaged_lines,
    from_json,
    keep_lines,
    read_lines,
    storage_errors,
    to_json,
    write_json,
)

FORMAT = 1
MANIFEST, METRICS, SAMPLES, LOCK = "run.json", "metrics.jsonl", "samples.jsonl", ".lock"
PREFERENCES = "preferences.jsonl"
FINDINGS, FINDINGS_SCHEMA = "findings.json", 1
KEPT = "judgements.jsonl", "drawn"
"""An evaluation's judgements, and the completions that were drawn before an interruption."""

RESULT_NEUTRAL = frozenset(
    {"output_dir", "resume", "stop", "save_steps", "save_total_limit", "micro_batch_tokens", "reference_cache"}
    | {"report_to", "project"}
)
"""Options that may differ when a run is resumed. They say where and how often it writes and how much memory it takes,
not what it computes (law 2)."""

HASHED = {
    "data": ("train data", "data"),
    "eval_data": ("eval data",),
    "normalize_data": ("normalize data",),
    "model": ("model",),
}
"""Options that name a path, and the hashes of what is there: two runs with the same content are the same."""


class RunFolder:
    """One run's folder, locked while open. Use `RunFolder.open`, then `close` (or `with`)."""

    def __init__(self, path: Path, manifest: dict[str, Any], lock: IO[str] | None) -> None:
        self.path, self.manifest, self._lock = path, manifest, lock
        self.resumed = False

    @classmethod
    def open(
        cls,
        output_dir: str | Path,
        config: Mapping[str, Any],
        *,
        command: str,
        resume: bool,
        hashes: Mapping[str, str] | None = None,
        parents: Sequence[str] = (),
        is_main: bool = True,
    ) -> RunFolder:
        """Creates the folder, or reopens it for an interrupted or finished run with the same configuration.

        `hashes` (data, tokenizer, model) belong to the configuration: a run with other data is another run. With
        several processes only the main one (`is_main`) locks and writes; the others open the folder after it.
        Raises RunFolderError if the folder has another run or other files, if it is in use, or if it has a run and
        `resume` is False. Raises StorageError if the disk is full.
        """
        path = Path(output_dir)
        identity = from_json(to_json({"command": command, "config": dict(config), "hashes": dict(hashes or {})}))
        existing = _read_manifest(path)
        _check_owner(path, existing, identity, resume=resume)
        if not is_main:
            return cls(path, existing or _new_manifest(identity, parents), None)
        lock = lock_folder(path)
        try:
            existing = _read_manifest(path)  # again, now that no other process writes
            _check_owner(path, existing, identity, resume=resume)
            folder = cls(path, existing or _new_manifest(identity, parents), lock)
            folder.resumed = existing is not None
            folder._save()
        except BaseException:
            lock.close()
            raise
        return folder

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self._lock is not None

    @property
    def is_finished(self) -> bool:
        return self.manifest["status"] == "finished"

    @property
    def stopped(self) -> dict[str, Any] | None:
        """`step` and `finding` that the run was stopped by; None where it was not, or went on."""
        return self.manifest["stopped"] if self.manifest["status"] == "stopped" else None

    @property
    def result(self) -> dict[str, Any] | None:
        """The result that `finish` received; None while the run is unfinished."""
        return self.manifest["result"]

    @property
    def model_path(self) -> Path:
        return self.path / "model"

    def checkpoints(self) -> list[Path]:
        """`checkpoints/step-N`, oldest first, unverified (engine/checkpoint.py verifies them)."""
        found = [p for p in (self.path / "checkpoints").glob("step-*") if p.name.removeprefix("step-").isdigit()]
        return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))

    def note(self, text: str) -> None:
        """Adds a line to the notes in run.json."""
        if text not in self.manifest["notes"]:  # a resumed run repeats its notes
            self.manifest["notes"].append(text)
            self._save()

    def record(self, **fields: Any) -> None:
        """Adds facts to run.json that are known only later (fingerprints, attention tier)."""
        self.manifest["facts"].update(fields)
        self._save()

    def record_start(self, name: str, fingerprint: str) -> None:
        """Records the fingerprint of the weights that the run starts from. Raises RunFolderError if they changed."""
        started = self.manifest["facts"].get("start", {})
        known = started.get(f"{name}_start", fingerprint)
        if known != fingerprint:
            raise RunFolderError(
                f"the run in {self.path} was started from other weights",
                got=f"{name} {fingerprint}",
                expected=f"{name} {known}",
                fix="choose another --output-dir, or restore the model that the run was started from",
            )
        self.record(start={**started, f"{name}_start": fingerprint})

    def rewind(self, step: int | None) -> list[str]:
        """Cuts the files that are written line by line to what they held after `step` updates; None: to nothing.

        Called when a run resumes, so that the lines after its checkpoint are not written twice. Damaged lines are put
        aside, and the good ones around them stay. Returns what to report of them.
        """
        said: list[str] = []
        if not self.is_main:
            return said
        (self.path / FINDINGS).unlink(missing_ok=True)  # of steps that are cut; what still holds is found again
        for path in (self.path / name for name in (METRICS, SAMPLES, PREFERENCES)):
            if path.exists():
                said += _put_aside(path)
                rows = [row for row in read_lines(path) if type(row.get("step")) is int]
                keep_lines(path, [row for row in rows if step is not None and row["step"] <= step])
        return said

    def finish(self, result: Mapping[str, Any]) -> None:
        """Marks the run as finished. When it is opened again, it returns this result and does not train."""
        self.manifest |= {"status": "finished", "finished": _now(), "result": dict(result)}
        self._save()

    def add_finding(self, finding: Mapping[str, Any]) -> None:
        """Adds to findings.json what a rule found; once for each rule."""
        if not self.is_main:
            return
        path = self.path / FINDINGS
        try:
            findings = [one for one in from_json(path.read_bytes())["findings"] if one["rule"] != finding["rule"]]
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or one that cannot be read: it starts afresh
            findings = []
        findings.append(dict(finding))
        write_json(path, {"schema": FINDINGS_SCHEMA, "findings": findings, "not_checked": []})

    def stop(self, finding: Mapping[str, Any], *, step: int) -> None:
        """Marks the run as stopped after `step` updates; the same command may go on with it."""
        self.manifest |= {"status": "stopped", "stopped": {"step": step, "at": _now(), "finding": dict(finding)}}
        self._save()

    def go_on(self) -> None:
        """Marks a run that was stopped, or whose model is to be written again, as running; its old model goes."""
        if self.manifest["status"] != "running":
            if self.is_main:
                shutil.rmtree(self.model_path, ignore_errors=True)
            self.manifest["status"] = "running"
            self._save()

    def damage(self) -> str | None:
        """How the finished run's `model/` differs from what was written; None if it does not."""
        return damage_of(self.model_path, self.manifest["facts"].get("model_files", {}))

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Removes a new folder without results if bad input was found after it was made. Releases the lock."""
        has_results = any((self.path / name).exists() for name in (METRICS, *KEPT))
        is_new = self.is_main and not self.resumed and not has_results
        if is_new and kind is not None and issubclass(kind, UsageError):
            for name in (MANIFEST, LOCK):
                (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it has other files
                self.path.rmdir()
        self.close()

    def _save(self) -> None:
        if self.is_main:
            write_json(self.path / MANIFEST, self.manifest)


def _new_manifest(identity: dict[str, Any], parents: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **identity,
        "status": "running",
        "started": _now(),
        "finished": None,
        "versions": versions(),
        "git_revision": git_revision(),
        "parents": list(parents),
        "facts": {},
        "notes": [],
        "result": None,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """The folder's run.json; None if there is none. Raises RunFolderError if the folder cannot be a run's."""
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file", expected="a folder for the run", fix="choose another --output-dir")
    if not path.exists():
        return None
    try:
        manifest = from_json((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        foreign = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
        if foreign:
            raise RunFolderError(
                f"{path} has files that no run wrote",
                got=", ".join(foreign[:5]),
                expected="an empty or new folder, or the folder of an earlier run",
                fix="choose another --output-dir",
            ) from None
        return None
    except ValueError as error:
        raise RunFolderError(f"{path / MANIFEST} is damaged", got=error, fix="choose another --output-dir") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        got = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise RunFolderError(
            f"{path} was written in another format",
            got=got,
            expected=FORMAT,
            fix="choose another --output-dir, or the version of assent that wrote it",
        )
    return manifest


def _check_owner(path: Path, existing: dict[str, Any] | None, identity: dict[str, Any], *, resume: bool) -> None:
    if existing is None:
        return
    differing = differences(existing, identity)
    if differing:
        raise RunFolderError(
            f"{path} belongs to another run",
            got="; ".join(f"{key}: {new}" for key, (_, new) in differing.items()),
            expected="; ".join(f"{key}: {old}" for key, (old, _) in differing.items()) + " (as that run was started)",
            fix="choose another --output-dir, or give the options that this run was started with",
        )
    if not resume:
        raise RunFolderError(
            f"{path} already has a {'finished' if existing['status'] == 'finished' else 'started'} run",
            expected="a new folder, because of --no-resume",
            fix="choose another --output-dir, or leave --no-resume out to continue the run",
        )


def differences(existing: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two runs differ, with both values. Options that cannot change the result are left out."""
    found: dict[str, tuple[Any, Any]] = {}
    if existing["command"] != identity["command"]:
        found["command"] = (existing["command"], identity["command"])
    for section, prefix in (("config", ""), ("hashes", "hash of ")):
        old, new = existing[section], identity[section]
        for key in sorted(old.keys() | new.keys()):
            is_hashed = prefix == "" and any(
                name in existing["hashes"] and name in identity["hashes"] for name in HASHED.get(key, ())
            )
            if key not in RESULT_NEUTRAL and not is_hashed and old.get(key) != new.get(key):
                found[prefix + key] = (old.get(key), new.get(key))
    return found


def _put_aside(path: Path) -> list[str]:
    """Copies damaged lines to FILE.damaged as they are, and says so."""
    damaged = damaged_lines(path)
    if not damaged:
        return []
    with storage_errors(path), path.with_name(f"{path.name}.damaged").open("ab") as stream:
        stream.writelines(line + b"\n" for line in damaged.values())
    numbers = ", ".join(map(str, list(damaged)[:5])) + (" …" if len(damaged) > 5 else "")
    return [f"{path.name}: damaged lines ({numbers}) were put aside in {path.name}.damaged: {len(damaged)} of them"]


def model_is_damaged(folder: Path) -> bool:
    """Whether a run's `model/` lacks a file, or one has another size than was written. Any other folder: no."""
    path = folder / MANIFEST
    facts = (_read_manifest(folder) or {}).get("facts", {}) if path.is_file() else {}
    return damage_of(folder / "model", facts.get("model_files", {}), sizes_only=True) is not None


def lock_folder(path: Path) -> IO[str]:
    """Creates the folder and locks it exclusively, until the file is closed or the process ends in any way.

    Raises RunFolderError if another process has the lock, or if the folder cannot be written.
    """
    try:
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / LOCK).open("a+", encoding="utf-8")
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise RunFolderError(f"cannot write in {path}", got=error, fix="choose another --output-dir") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise RunFolderError(
            f"{path} is in use by another process",
            got=f"process {owner}",
            fix="wait for it, or choose another --output-dir",
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
