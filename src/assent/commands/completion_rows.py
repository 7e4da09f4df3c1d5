"""Completions as rows of files, and the end of a run that wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from assent.data.rows_write import as_prompt_is, context
from assent.data.shards import Apart
from assent.runs.files import keep_lines
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from assent.types import PromptGroup, Rollout

Row = dict[str, Any]


def write_rows(folder: RunFolder, files: Mapping[str, list[Row]]) -> dict[str, Path]:
    """Writes each list of rows as NAME.jsonl."""
    paths = {name: folder.path / f"{name}.jsonl" for name in files}
    for name, rows in files.items():
        keep_lines(paths[name], rows)
    return paths


def close(
    folder: RunFolder,
    files: Mapping[str, Path],
    metrics: dict[str, float],
    *,
    apart: Sequence[Apart] = (),
    refused: Sequence[Apart] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Logs the metrics and closes the run, whose files are written; rows kept `apart` or refused go to a file of their
    own. The result counts both, and only those kept apart are tried again."""
    log = RunLog(folder)
    log.metrics(0, metrics)
    paths = {name: str(path) for name, path in files.items()}
    result = {"output_dir": str(folder.path), **paths, "steps": 0, "metrics": metrics, **extra}
    result |= keep_apart(folder, apart, refused)
    folder.finish(result)
    return result


def keep_apart(folder: RunFolder, apart: Sequence[Apart], refused: Sequence[Apart] = ()) -> dict[str, Any]:
    """Writes the rows to a file of their own, if there are any. Returns what a result says of them."""
    path = folder.path / "apart.jsonl"
    path.unlink(missing_ok=True)  # of an earlier try
    if not (rows := [*apart, *refused]):
        return {}
    keep_lines(path, [asdict(row) for row in rows])
    return {
        "apart_rows": str(path),
        **{name: len(part) for name, part in (("apart", apart), ("refused", refused)) if part},
    }


def described(rows: Sequence[Row]) -> dict[str, float]:
    return {
        "rollout/completion_length": float(np.mean([row["tokens"] for row in rows])),
        "rollout/eos_rate": float(np.mean([row["finish_reason"] == "stop" for row in rows])),
    }


def row_of(group: PromptGroup, rollout: Rollout) -> Row:
    """A sampled completion as a row of a file."""
    return {
        **context(group),
        "completion": as_prompt_is(group.prompt, rollout.text),
        "completion_index": rollout.completion_index,
        "finish_reason": rollout.finish_reason,
        "tokens": len(rollout.ids),
        "logprob": float(sum(rollout.logprobs)),
    }


def is_visible(row: Row) -> bool:
    """Whether the row's completion has a visible character. Files of completions hold no others."""
    completion = row["completion"]
    return bool((completion if isinstance(completion, str) else completion[-1]["content"]).strip())


def blank(rows: Sequence[Row]) -> dict[str, float]:
    return {"rollout/blank": float(sum(not is_visible(row) for row in rows))}


def visible(rows: Sequence[Row], log: RunLog) -> list[Row]:
    """The rows with visible completions. A note in the log counts the others."""
    kept = [row for row in rows if is_visible(row)]
    if len(kept) < len(rows):
        log.note(
            f"{len(rows) - len(kept)} of {len(rows)} completions have no visible character and are left out of the file"
        )
    return kept
