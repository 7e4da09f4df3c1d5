"""What a user points at, as a case: a run folder of ours, another trainer's log, or a file of data."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from assent.config.loading import unknown_name
from assent.diagnosis.case import Case, infer_stage, make_case
from assent.diagnosis.rule import EVERY
from assent.errors import DataError, UsageError
from assent.runs.files import bytes_of, from_json
from assent.runs.folder import LOCK, MANIFEST, METRICS
from assent.runs.foreign_names import read_foreign
from assent.runs.foreign_options import our_options
from assent.runs.reading import read_manifest, read_metrics

if TYPE_CHECKING:
    from assent.diagnosis.rows import Rows


MOST_BYTES = 50_000_000
"""Of a run's own data that is looked at with the run: about 10 seconds."""


def open_case(
    target: str | Path,
    *,
    stage: str | None = None,
    settings: str | Path | None = None,
    against: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Case:
    """The case of a run folder, a log, or a file of data. `against`: another file of data, to compare prompts with.
    `columns`: names of a data file's columns, each with ours; what is given them is data, never a log.

    `stage` and `settings` (a YAML or JSON file of options) say of another trainer's log what it does not hold.
    Raises DataError for what is neither, and UsageError for `stage` or `settings` of a run of ours, which has its own.
    """
    path = Path(target)
    if columns:
        if stage is not None or settings is not None or not _may_be_data(path):
            raise UsageError(
                "columns has an effect on data only", got=str(path), fix="leave it out, or give a file of data"
            )
        return _of_data(_read_rows(path, against, columns))
    if not (path / MANIFEST).exists():
        if stage is None and settings is None and (rows := rows_of(path, against=against)) is not None:
            return _of_data(rows)
        return case_of_log(path, stage=stage, settings=settings)
    if stage is not None or settings is not None:
        raise UsageError(
            f"{path} is a run of ours, whose run.json holds its command and its options",
            fix="leave stage and settings out",
        )
    return case_of_run(path)


def kind_of_model(path: Path) -> Literal["policy", "reward model"] | None:
    """What model a folder holds, by its configuration; None: none, or a run."""
    if (path / MANIFEST).exists():
        return None
    if (path / "assent_members.json").is_file():
        return "reward model"
    for name in ("config.json", "adapter_config.json"):
        if (path / name).is_file():
            try:
                config = from_json(bytes_of(path / name))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path / name} is not whole JSON", got=error, fix="copy it again") from error
            if not isinstance(config, dict):
                raise DataError(f"{path / name} holds no configuration", expected="an object")
            named = any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())
            scores = named or config.get("assent_score_head") is True or config.get("task_type") == "SEQ_CLS"
            return "reward model" if scores else "policy"
    return None


def rows_of(path: Path, *, against: str | None = None) -> Rows | None:
    """The rows of a file of data or of a saved dataset; None for one that has no rows of ours."""
    if not _may_be_data(path):
        return None
    try:
        return _read_rows(path, against, {})
    except (DataError, UsageError):
        return None


def _of_data(rows: Rows) -> Case:
    """The case of data. Which of several splits was read is said."""
    from assent.data.sources import CHOSEN

    chosen = tuple(note for note in rows.dataset.notes if note.startswith(CHOSEN))
    return Case(data=rows, source="data", reading=chosen)


def _may_be_data(path: Path) -> bool:
    """Whether it is a file, or a folder that `datasets` saved."""
    return path.is_file() or any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _read_rows(path: Path, against: str | None, columns: Mapping[str, str]) -> Rows:
    from assent.data.loading import load_groups  # logs are read without numpy
    from assent.diagnosis.rows import Rows

    dataset = load_groups(path, lenient=True, columns=columns)
    if against is None:
        return Rows(dataset)
    return Rows(dataset, against=load_groups(against, lenient=True, columns=columns, own_columns=False))


def data_of_run(folder: str | Path) -> Rows | str:
    """The rows that a run of ours trains on, if they are still what it read; otherwise why they are not looked at."""
    manifest = read_manifest(Path(folder))
    parts = (manifest.get("config"), manifest.get("hashes"))
    config, hashes = (part if isinstance(part, dict) else {} for part in parts)
    name, known = config.get("data"), hashes.get("train data")
    if not isinstance(name, str) or known is None:
        return "its run.json names no data with a hash"
    file = Path(name).expanduser()
    if not file.is_file():
        return f"its data are not looked at: there is no file {file.name} here"
    if file.stat().st_size > MOST_BYTES:
        return f"its data are not looked at with it: {file.name} is large. Ask about it alone (assent doctor DATA)"
    from assent.data.loading import load_groups
    from assent.diagnosis.rows import Rows

    try:
        dataset = load_groups(file, columns=config.get("columns"), lenient=True)
    except (DataError, UsageError) as error:
        return f"its data are not looked at: {error.what}"
    if dataset.sha256 != known:
        return f"its data are not looked at: {file.name} has changed since"
    return Rows(dataset)


def case_of_log(path: Path, *, stage: str | None = None, settings: str | Path | None = None) -> Case:
    """The case of another trainer's log. Raises DataError where nothing can be read."""
    if stage is not None and stage not in EVERY:
        raise unknown_name("stage", stage, EVERY)
    log = read_foreign(path, stage=stage, settings=settings)
    last = max((steps[-1] for steps, _ in log.columns.values()), default=0)
    return make_case(
        log.columns,
        config=our_options(log.settings, stage or infer_stage(log.columns), log.source),
        stage=stage,
        source=log.source,
        status="finished" if log.planned_steps and last >= log.planned_steps else None,
        planned_steps=log.planned_steps,
        silent_seconds=max(0.0, time.time() - log.written),
        reading=log.notes,
    )


def case_of_run(folder: str | Path) -> Case:
    """The case of a run folder of ours, finished or not. Raises RunFolderError if there is no run."""
    path = Path(folder)
    manifest, log = read_manifest(path), path / METRICS
    metrics, damaged = read_metrics(log)
    is_open = manifest.get("status") == "running"
    config, facts = manifest.get("config"), manifest.get("facts")
    return make_case(
        {name: (series.steps, series.values) for name, series in metrics.items()},
        config=config if isinstance(config, dict) else {},
        stage=manifest.get("command"),
        status=manifest.get("status"),
        planned_steps=facts.get("planned_steps") if isinstance(facts, dict) else None,
        silent_seconds=max(0.0, time.time() - log.stat().st_mtime) if is_open and log.exists() else None,
        is_alive=_is_locked(path / LOCK) if is_open else None,
        reading=(f"{damaged} damaged lines of {METRICS} are left out",) if damaged else (),
    )


def _is_locked(lock: Path) -> bool | None:
    """Whether a process has the run open; None: it cannot be told."""
    try:
        with lock.open(encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except OSError:
        return True
    return False
