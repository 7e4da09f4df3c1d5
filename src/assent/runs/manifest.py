"""run.json: what it holds, and which run it is of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assent.errors import RunFolderError
from assent.runs.environment import git_revision, versions
from assent.runs.files import bytes_of, from_json

MANIFEST, FORMAT = "run.json", 1
FIELDS = {"command": str, "config": dict, "hashes": dict, "status": str, "facts": dict, "notes": list}
"""Fields without which a record is damaged."""

RECOVER = (
    "repeat the command with --recover: it is rebuilt from the checkpoints (in a pipeline: --set STAGE.recover=true)"
)

RESULT_NEUTRAL = frozenset(
    {"output_dir", "resume", "recover", "stop", "stop_on", "save_steps", "save_total_limit", "micro_batch_tokens"}
    | {"reference_cache", "report_to", "project", "allow_slow_dtype"}
    | {"sharding", "num_shards", "shard", "engine", "workers", "status", "data_storage"}
    | {"concurrency", "timeout_seconds", "max_requests", "max_cost", "input_price", "output_price", "dry_run"}
)
"""Options that may differ when a run is resumed. They say where and how often it writes and how much memory it takes,
not what it computes (law 2)."""

HASHED = {
    "data": ("train data", "data"),
    "eval_data": ("eval data",),
    "normalize_data": ("normalize data",),
    "split": ("train data", "data"),
    "eval_split": ("eval data",),
    "model": ("model",),
}
"""Options that name a path, and the hashes of what is there: two runs with the same content are the same."""


def new_manifest(identity: Mapping[str, Any], parents: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **identity,
        "status": "running",
        "started": now(),
        "finished": None,
        "versions": versions(),
        "git_revision": git_revision(),
        "parents": list(parents),
        "facts": {},
        "notes": [],
        "result": None,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The folder's run.json; None if there is none. Raises RunFolderError if the folder cannot be a run's."""
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file", expected="a folder for the run", fix="choose another --output-dir")
    if not path.exists():
        return None
    try:
        manifest = from_json(bytes_of(path / MANIFEST))
    except FileNotFoundError:
        if kept := checkpoints_in(path):
            raise RunFolderError(
                f"{path / MANIFEST} is gone", got=f"checkpoints/{', checkpoints/'.join(kept)}", fix=RECOVER
            ) from None
        foreign = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
        if foreign:
            raise RunFolderError(
                f"{path} has files that no run wrote",
                got=", ".join(foreign[:5]),
                expected="an empty or new folder, or the folder of an earlier run",
                fix="choose another --output-dir",
            ) from None
        return None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise _damaged(path, "no record of a run")
    if manifest["format"] != FORMAT:
        raise RunFolderError(
            f"{path} was written in another format",
            got=manifest["format"],
            expected=FORMAT,
            fix="choose another --output-dir, or the version of assent that wrote it",
        )
    missing = [name for name, kind in FIELDS.items() if not isinstance(manifest.get(name), kind)]
    if missing:
        raise _damaged(path, f"no {', '.join(missing)}")
    return manifest


def step_of(name: str) -> int | None:
    """N, of a checkpoint's name `step-N`; None for another name, such as `step-3.bak`, `step-03` or `step-²`."""
    found = re.fullmatch(r"step-(0|[1-9][0-9]*)", name)
    return int(found[1]) if found else None


def checkpoints_in(path: Path) -> list[str]:
    """The names of `checkpoints/step-N`, whole or not."""
    return sorted(p.name for p in (path / "checkpoints").glob("step-*") if step_of(p.name) is not None)


def _damaged(path: Path, got: object) -> RunFolderError:
    fix = RECOVER if checkpoints_in(path) else "put it back from a copy, or choose another --output-dir"
    return RunFolderError(f"{path / MANIFEST} is damaged", got=got, fix=fix)


def check_owner(path: Path, existing: Mapping[str, Any] | None, identity: Mapping[str, Any], *, resume: bool) -> None:
    """Raises RunFolderError if the folder's run is another one, or if there is one and `resume` is False."""
    if existing is None:
        return
    differing = differences(existing, identity)
    if "command" in differing:  # the options of another command say nothing
        differing = {"command": differing["command"]}
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
                existing["hashes"].get(name, "") == identity["hashes"].get(name) for name in HASHED.get(key, ())
            )
            if key not in RESULT_NEUTRAL and not is_hashed and old.get(key) != new.get(key):
                found[prefix + key] = (old.get(key), new.get(key))
    return found
