"""Checkpoints: each one is complete, or it is not there.

    checkpoints/step-N/<learner>/{model,optimiser}.safetensors, state.json      written by each learner
    checkpoints/step-N/state.json                                               the stage's own state
    checkpoints/step-N/manifest.json                                            size and SHA-256 of every file, last

A checkpoint is written to a temporary folder beside its own: every file is fsynced, the manifest last. Then the folder
is renamed, and its parent fsynced. A resumed run takes the newest checkpoint whose every bit agrees with its manifest.
There is no pickle anywhere (law 6).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from assent.engine.runtime import Runtime
from assent.errors import RunError, RunFolderError
from assent.runs.files import fsync, sha256_of, storage_errors, sync_logs, write_json
from assent.runs.manifest import step_of

FOLDER, MANIFEST, STATE = "checkpoints", "manifest.json", "state.json"
FORMAT = 1


class Kept(Protocol):
    """A part of a checkpoint: a Learner, or a Reference that moves."""

    runtime: Runtime

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint. `refused` names the newer ones that are damaged, and says how."""

    path: Path
    step: int
    state: dict[str, Any]
    refused: tuple[str, ...] = ()

    def load_into(self, learners: Mapping[str, Kept]) -> None:
        """Loads weights, optimiser and step of every learner. Raises RunFolderError if it holds other learners."""
        stored = sorted(path.name for path in self.path.iterdir() if path.is_dir())
        if stored != sorted(learners):
            raise RunFolderError(
                f"{self.path} holds other models", got=", ".join(stored), expected=", ".join(sorted(learners))
            )
        for name, learner in learners.items():
            learner.load(self.path / name)


def write_checkpoint(
    run_folder: Path,
    step: int,
    *,
    learners: Mapping[str, Kept],
    state: Mapping[str, Any],
    save_total_limit: int = 2,
    best: int | None = None,
) -> Path:
    """Writes `checkpoints/step-N` and removes the oldest beyond `save_total_limit`. All processes must call it.

    `state` is JSON. `best` is the step of the best checkpoint so far, which may be this one. It is kept as long as a
    checkpoint names it. Raises StorageError if the disk is full; earlier checkpoints are left as they are.
    """
    runtime = next(iter(learners.values())).runtime
    runtime.begins(f"writing checkpoint {step}")
    parent = run_folder / FOLDER
    final, temporary = parent / f"step-{step}", parent / f".step-{step}.tmp"
    if runtime.is_main:
        with storage_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
            sweep(run_folder)
            for name in learners:
                (temporary / name).mkdir(parents=True)
    try:
        for name, learner in learners.items():
            learner.save(temporary / name)
        if runtime.is_main:
            write_json(temporary / STATE, dict(state))
            sync_logs(run_folder)  # so that none ends before its checkpoint
            _commit(temporary, final, step, best)
            with storage_errors(parent):
                _prune(parent, step, keep=save_total_limit)
    except BaseException:
        if runtime.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    runtime.meet(f"writing checkpoint {step}")
    return final


def adopt(checkpoint: Checkpoint, run_folder: Path, *, record: Mapping[str, Any]) -> None:
    """Copies another run's checkpoint into this run's folder, with this run's `record`: complete, or not at all."""
    parent = run_folder / FOLDER
    final, temporary = parent / checkpoint.path.name, parent / f".{checkpoint.path.name}.tmp"
    with storage_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        sweep(run_folder)
        shutil.copytree(checkpoint.path, temporary, ignore=shutil.ignore_patterns(MANIFEST))
    write_json(temporary / STATE, {**checkpoint.state, "run": dict(record)})
    sync_logs(run_folder)
    _commit(temporary, final, checkpoint.step, _best_of(checkpoint.path))


def latest_verified(run_folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose every bit is as written; None if there are no checkpoints.

    Raises RunFolderError if all are damaged: a run must not decide by itself to start over.
    """
    refused: list[str] = []
    for path in sorted(_checkpoints(run_folder / FOLDER), key=_step_of, reverse=True):
        reason = damage(path)
        if reason is None:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            return Checkpoint(path, _step_of(path), state, tuple(refused))
        refused.append(f"{path.name}: {reason}")
    if refused:
        raise RunFolderError(
            "every checkpoint of the run is damaged",
            got="; ".join(refused),
            fix=f"restore one of them; or delete {run_folder / FOLDER}, and the same command starts over",
        )
    return None


def verified(run_folder: Path, step: int) -> Checkpoint:
    """The checkpoint of this step. Raises RunError if it is damaged."""
    path = run_folder / FOLDER / f"step-{step}"
    reason = damage(path)
    if reason is not None:
        raise RunError(f"{path} is damaged", got=reason, fix="repeat the command: it resumes from an earlier one")
    return Checkpoint(path, step, json.loads((path / STATE).read_text(encoding="utf-8")))


def damage(path: Path) -> str | None:
    """How a checkpoint, or the best one that it names, is damaged; None if it is not."""
    try:
        if (path / MANIFEST).exists() and not (path / MANIFEST).is_file():
            return f"{MANIFEST} is not a file"
        text = (path / MANIFEST).read_bytes()
        manifest = json.loads(text)
        if text != _serialise(manifest) or manifest["seal"] != _seal(manifest):
            return f"{MANIFEST} is damaged"
        if manifest["format"] != FORMAT or manifest["step"] != _step_of(path):
            return f"{MANIFEST} has another format or step"
        for name, expected in manifest["files"].items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if not (path / name).resolve().is_relative_to(path.resolve()):
                return f"{name} lies outside the checkpoint"
            if (path / name).stat().st_size != expected["bytes"] or sha256_of(path / name) != expected["sha256"]:
                return f"{name} is damaged"
        best = manifest.get("best")
        if best is not None and best != manifest["step"]:
            reason = damage(path.with_name(f"step-{best}"))
            return reason and f"the best checkpoint, step-{best}: {reason}"
    except FileNotFoundError:
        return f"no {MANIFEST}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is damaged ({type(error).__name__})"
    return None


def sweep(run_folder: Path) -> None:
    """Removes the rest of an interrupted write. The run folder's lock keeps other processes out."""
    with storage_errors(run_folder / FOLDER):
        for orphan in (run_folder / FOLDER).glob(".step-*"):
            if re.fullmatch(r"\.step-\d+\.(tmp|old)", orphan.name):
                shutil.rmtree(orphan)


def _commit(temporary: Path, final: Path, step: int, best: int | None) -> None:
    """Turns the files in a temporary folder into a checkpoint."""
    with storage_errors(final):
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        entries = {}
        for path in files:
            fsync(path)
            name = path.relative_to(temporary).as_posix()
            entries[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        manifest: dict[str, Any] = {"format": FORMAT, "step": step, "files": entries, "best": best}
        manifest["seal"] = _seal(manifest)
        (temporary / MANIFEST).write_bytes(_serialise(manifest))
        fsync(temporary / MANIFEST)
        for folder in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
            fsync(folder)
        if final.exists():  # damaged, or left from before the run fell back to an older checkpoint
            aside = final.with_name(f".{final.name}.old")
            final.rename(aside)
            temporary.rename(final)
            shutil.rmtree(aside)
        else:
            temporary.rename(final)
        fsync(final.parent)


def _prune(parent: Path, step: int, *, keep: int) -> None:
    """Keeps the `keep` newest checkpoints up to `step`, and those that they name as the best.

    Checkpoints after `step` were damaged, and the run fell back from them.
    """
    ordered = sorted((path for path in _checkpoints(parent) if _step_of(path) <= step), key=_step_of)
    kept = {*ordered[-keep:], *(parent / f"step-{_best_of(path)}" for path in ordered[-keep:])}
    for path in _checkpoints(parent):
        if path not in kept:
            shutil.rmtree(path)


def _best_of(path: Path) -> int | None:
    """The step that a checkpoint names as the best; None if it names none, or is damaged."""
    try:
        return json.loads((path / MANIFEST).read_text(encoding="utf-8"))["best"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checkpoints(parent: Path) -> list[Path]:
    """The folders that runs write. Any other one in there (`step-3.bak`, a link) is somebody's own and stays."""
    ours = (path for path in parent.glob("step-*") if step_of(path.name) is not None)
    return [path for path in ours if path.is_dir() and not path.is_symlink()]


def _step_of(path: Path) -> int:
    step = step_of(path.name)
    return -1 if step is None else step


def _seal(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.sha256(_serialise(rest)).hexdigest()


def _serialise(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, sort_keys=True).encode()
