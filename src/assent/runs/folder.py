"""A run folder: which run it belongs to, whether the run is finished, and the lock that keeps a second process out.

run.json        manifest: configuration, versions, git revision, hashes, parent runs, notes, result
metrics.jsonl   one line per logged step          samples.jsonl   prompts and completions to look at
preferences.jsonl   online-dpo: what was sampled and scored
judgements.jsonl    eval, judge: the answers of judges at an address
attempts            judge: a line for each request to that address
findings.json   the findings of the doctor's rules
checkpoints/    step-N/, written by the engine    model/          the result, an ordinary Hugging Face folder
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from assent.errors import RunFolderError, UsageError
from assent.runs.files import (
    damage_of,
    from_json,
    keep_lines,
    put_aside_damage,
    read_lines,
    storage_errors,
    sync_logs,
    to_json,
    write_json,
)
from assent.runs.manifest import MANIFEST, check_owner, new_manifest, now, read_manifest, step_of
from assent.runs.recovery import Find, keep_damaged, recovered

METRICS, SAMPLES, LOCK = "metrics.jsonl", "samples.jsonl", ".lock"
PREFERENCES = "preferences.jsonl"
SHARDS = "shards"
"""Of a command whose work was cut (data/shards.py)."""
FINDINGS, FINDINGS_SCHEMA = "findings.json", 1
KEPT = "judgements.jsonl", "drawn"
"""An evaluation's judgements, and the completions that were drawn before an interruption."""
ATTEMPTS = "attempts"
"""Of a judge at an address: a line for each request that was begun, answered or not."""


class RunFolder:
    """One run's folder, locked while open. Use `RunFolder.open`, then `close` (or `with`)."""

    def __init__(self, path: Path, manifest: dict[str, Any], lock: IO[str] | None) -> None:
        self.path, self.manifest, self._lock = path, manifest, lock
        self.resumed = False
        self.recovered: list[str] = []
        """What `--recover` rebuilt, for the log."""

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
        find_record: Find | None = None,
        wait_seconds: float = 0.0,
    ) -> RunFolder:
        """Creates the folder, or reopens it for an interrupted or finished run with the same configuration.

        `hashes` (data, tokenizer, model) belong to the configuration: a run with other data is another run. With
        several processes only the main one (`is_main`) locks and writes; the others open the folder after it.
        `find_record` is given with --recover: it finds the record from which a damaged or missing run.json is rebuilt.
        `wait_seconds`: how long to wait for another process that has the folder, where several are meant to use it.
        Raises RunFolderError if the folder has another run or other files, if it is in use, or if it has a run and
        `resume` is False. Raises StorageError if the disk is full.
        """
        path = Path(output_dir)
        identity = from_json(to_json({"command": command, "config": dict(config), "hashes": dict(hashes or {})}))
        # Another process than the main one may come after it, and find the record that the main one has just written.
        existing, _ = _existing(path, identity, find_record, resume=resume or not is_main)
        if not is_main:
            return cls(path, existing or new_manifest(identity, parents), None)
        lock = lock_folder(path, wait_seconds=wait_seconds)
        try:
            # Again, now that no other process writes.
            existing, said = _existing(path, identity, find_record, resume=resume)
            folder = cls(path, existing or new_manifest(identity, parents), lock)
            folder.resumed, folder.recovered = existing is not None, said
            if said:
                keep_damaged(path / MANIFEST)
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
        found = {step_of(p.name): p for p in (self.path / "checkpoints").glob("step-*")}
        return [found[step] for step in sorted(step for step in found if step is not None)]

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
        with storage_errors(self.path / FINDINGS):  # of steps that are cut; what still holds is found again
            (self.path / FINDINGS).unlink(missing_ok=True)
        for path in (self.path / name for name in (METRICS, SAMPLES, PREFERENCES)):
            rows = [row for row in read_lines(path) if _has_step(row) and row["step"] <= (step or 0)]
            lacking = _lacking(rows, step or 0) if path.name == METRICS else []
            if path.exists():
                said += put_aside_damage(path, _has_step, with_rest=bool(lacking))
                keep_lines(path, rows if step is not None else [])
            said += lacking
        return said

    def finish(self, result: Mapping[str, Any]) -> None:
        """Marks the run as finished. When it is opened again, it returns this result and does not train."""
        if self.is_main:
            sync_logs(self.path)  # a finished run is not continued: what its logs lose now stays lost
        self.manifest |= {"status": "finished", "finished": now(), "result": dict(result)}
        self._save()

    def add_finding(self, finding: Mapping[str, Any]) -> None:
        """Adds to findings.json what a rule found; once for each rule."""
        others = [one for rule, one in self.findings().items() if rule != finding["rule"]]
        self.write_findings({"findings": [*others, dict(finding)], "not_checked": []})

    def findings(self) -> dict[str, dict[str, Any]]:
        """What findings.json holds, by rule; nothing where there is none, or one that cannot be read."""
        try:
            return {one["rule"]: one for one in from_json((self.path / FINDINGS).read_bytes())["findings"]}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def write_findings(self, report: Mapping[str, Any]) -> None:
        """Writes findings.json: `findings`, and what was `not_checked` with the reasons."""
        if self.is_main:
            kept = {name: report[name] for name in ("findings", "not_checked")}
            write_json(self.path / FINDINGS, {"schema": FINDINGS_SCHEMA, **kept})

    def stop(self, finding: Mapping[str, Any], *, step: int) -> None:
        """Marks the run as stopped after `step` updates; the same command may go on with it."""
        self.manifest |= {"status": "stopped", "stopped": {"step": step, "at": now(), "finding": dict(finding)}}
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
        has_results = any((self.path / name).exists() for name in (METRICS, SHARDS, ATTEMPTS, *KEPT))
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


def _existing(
    path: Path, identity: Mapping[str, Any], find_record: Find | None, *, resume: bool
) -> tuple[dict[str, Any] | None, list[str]]:
    """The folder's manifest, if it has one, and what was rebuilt of it. RunFolderError if it is that of another run."""
    existing, said = (read_manifest(path), []) if find_record is None else recovered(path, identity, find_record)
    check_owner(path, existing, identity, resume=resume)
    return existing, said


def _has_step(row: Mapping[str, Any]) -> bool:
    return type(row.get("step")) is int


def _lacking(rows: Sequence[Mapping[str, Any]], step: int) -> list[str]:
    """Says of which steps up to `step` no line is left: each step writes one before its checkpoint."""
    lacking = sorted(set(range(1, step + 1)) - {row["step"] for row in rows})
    numbers = ", ".join(map(str, lacking[:5])) + (" …" if len(lacking) > 5 else "")
    return [f"{METRICS} has lost its lines of these steps: {numbers} ({len(lacking)} in all)"] if lacking else []


def model_is_damaged(folder: Path) -> bool:
    """Whether a run's `model/` lacks a file, or one has another size than was written, or its run.json is damaged. Any
    other folder: no."""
    path = folder / MANIFEST
    try:
        facts = (read_manifest(folder) or {}).get("facts", {}) if path.is_file() else {}
    except RunFolderError:  # nothing says what was written: the stage runs again, and says what to do
        return True
    return damage_of(folder / "model", facts.get("model_files", {}), sizes_only=True) is not None


def lock_folder(
    path: Path, *, name: str = LOCK, text: str | None = None, wait_seconds: float = 0.0, option: str = "--output-dir"
) -> IO[str]:
    """Creates the folder and locks it exclusively, until the file is closed or the process ends in any way.

    `name` is the lock's; a folder may have several. `text` names the owner (default: the process's id). `wait_seconds`:
    how long to try. `option` is what the user named the folder with.

    Raises RunFolderError if another process has the lock, or if the folder cannot be written.
    """
    try:
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / name).open("a+", encoding="utf-8")
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise RunFolderError(f"cannot write in {path}", got=error, fix=f"choose another {option}") from error
    try:
        _flock(lock, until=time.monotonic() + wait_seconds)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise RunFolderError(
            f"{path} is in use by another process",
            got=f"process {owner}",
            fix=f"wait for it, or choose another {option}",
        ) from error
    try:
        with storage_errors(path / name):
            lock.truncate(0)
            lock.write(text or str(os.getpid()))
            lock.flush()
    except BaseException:
        with contextlib.suppress(OSError):  # it tries to write again
            lock.close()
        raise
    return lock


def _flock(lock: IO[str], *, until: float) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.2)
