"""Reads the logs of other trainers: whatever holds a step and figures, under their names or ours.

    trainer_state.json            transformers, TRL, LLaMA-Factory, axolotl
    trainer_log.jsonl             LLaMA-Factory
    *.jsonl                       one object a line: W&B's history, verl's and NeMo-RL's file loggers
    *.csv                         exports of W&B (a column for each metric) and of TensorBoard (step and value)
    *-tag-*.json                  the same of TensorBoard, as lists of time, step and value
    *.log, *.txt, *.out           what was printed: dictionaries (transformers), `step:1 - name:value - …` (verl)
    *.md                          a model card's table of training results
    a folder                      trainer_state.json, trainer_log.jsonl, metrics.jsonl or README.md; otherwise all its
                                  exports together, since TensorBoard writes a file for each metric

What cannot be read is left out and counted; only a file of which nothing can be read is an error.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assent.errors import DataError, DataFileNotFoundError
from assent.runs.files import as_number, from_json

MAX_BYTES = 1 << 29
FILES = ("trainer_state.json", "trainer_log.jsonl", "metrics.jsonl", "README.md")
"""Looked for in a folder, in this order; trainer_state.json in its newest checkpoint too."""
STEPS = ("global_step", "train/global_step", "training/global_step", "trainer/global_step", "current_steps", "step",
         "Step", "_step", "train/step")  # fmt: skip
"""Names of the number of updates, the surest first."""
Row = dict[str, float]


@dataclass(slots=True)
class RawLog:
    """Figures by the log's own names.

    rows      (step, figures), in the order of the log
    settings  options by the log's own names
    skipped   lines or rows that could not be read
    written   when the file was last written, in seconds since 1970
    """

    path: Path
    kind: str
    rows: list[tuple[int, Row]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    planned_steps: int | None = None
    skipped: int = 0
    notes: list[str] = field(default_factory=list)
    written: float = 0.0

    def add(self, figures: Mapping[str, Any]) -> None:
        """Takes a row that names its step; another one is counted as skipped."""
        step = next((number for name in STEPS if (number := _whole(figures.get(name))) is not None), None)
        row = figures_of(figures)
        if step is None or not row:
            self.skipped += 1
        else:
            self.rows.append((step, row))


def read_raw_log(target: str | Path) -> RawLog:
    """Raises DataError for a file of which nothing can be read, and for one that is not there."""
    path = _chosen(Path(target))
    log = _of_exports(path) if path.is_dir() else _of_file(path)
    if not log.rows:
        raise DataError(
            f"{path} holds no row with a step and figures",
            got=f"{log.skipped:,} rows or lines that cannot be read" if log.skipped else "nothing to read",
            expected="a run folder, trainer_state.json, lines of JSON or of printed dictionaries, a CSV export, "
            "or a model card with its training results",
        )
    return log


def holds_log(folder: Path) -> bool:
    """Whether a log lies in a folder that may be a model's, too. A README.md is one if it has training results."""
    try:
        read_raw_log(folder)
    except DataError:  # a damaged log is to be told of
        return any(path.is_file() for name in FILES[:3] for path in _places(folder, name))
    return True


def _places(folder: Path, name: str) -> list[Path]:
    return [folder / name, *folder.glob(f"checkpoint-*/{name}")]


def _of_file(path: Path) -> RawLog:
    _check_ordinary(path)
    try:
        about = path.stat()
        if about.st_size > MAX_BYTES:
            raise DataError(f"{path} is too large for a log", got=f"{about.st_size:,} bytes")
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror) from error
    log = RawLog(path, path.suffix.removeprefix("."), written=about.st_mtime)
    reader = {".json": _json, ".jsonl": _lines, ".csv": _csv, ".md": _card}.get(path.suffix.lower(), _printed)
    reader(text, log)
    return log


def _of_exports(folder: Path) -> RawLog:
    """Exports of one run: a file for each chart. DataError for a metric that two of them hold."""
    log = RawLog(folder, "csv")
    holder: dict[str, Path] = {}
    for file in _exports(folder):
        part = _of_file(file)
        names = {name for _, row in part.rows for name in row}
        if twice := sorted(name for name in names & set(holder) if name.rpartition("/")[2] != "epoch"):
            raise DataError(
                f"{folder} holds exports of two runs: {twice[0]} stands in {holder[twice[0]].name} and in {file.name}",
                expected="the files of one run",
                fix="give each run a folder of its own, or name one file",
            )
        holder |= dict.fromkeys(names, file)
        log.rows += part.rows
        log.skipped += part.skipped
        log.written = max(log.written, part.written)
    return log


def _exports(folder: Path) -> list[Path]:
    return sorted(file for end in ("*.csv", "*-tag-*.json") for file in folder.glob(end) if file.is_file())


def _chosen(path: Path) -> Path:
    if not path.exists():
        raise DataFileNotFoundError(f"there is no {path}", fix="check the path")
    if not path.is_dir():
        return path
    for name in FILES:
        found = [file for file in _places(path, name) if file.is_file()]
        if found:
            return max(found, key=lambda file: (_number(file.parent.name), file.stat().st_mtime))
    if _exports(path):
        return path
    raise DataError(
        f"{path} holds no log",
        expected=f"a run folder of ours, or one with {', '.join(FILES)}, or with exports (*.csv)",
        fix="name the file",
    )


def _number(name: str) -> int:
    """1200 of checkpoint-1200; the folder itself, which a finished run writes last, above all."""
    tail = name.rpartition("-")[2]
    return int(tail) if name.startswith("checkpoint-") and tail.isdigit() else 1 << 60


def _json(text: str, log: RawLog) -> None:
    try:
        content = from_json(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{log.path} is not whole JSON", got=error, fix="copy it again, or name another file"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("log_history"), list):
        log.kind, content, state = "trainer_state", content["log_history"], content
        kept = ("num_train_epochs", "logging_steps", "train_batch_size")
        log.settings = {name: state[name] for name in kept if as_number(state.get(name)) is not None}
        log.planned_steps = _whole(state.get("max_steps")) or None
    if not isinstance(content, list):
        log.skipped = 1
        return
    tag = _tag(log.path)
    for row in content:
        if tag is not None and isinstance(row, list) and len(row) == 3:  # TensorBoard: time, step, value
            row = {"step": row[1], tag: row[2]}
        _take(row, log)


def _lines(text: str, log: RawLog) -> None:
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            row = from_json(line)
        except (ValueError, RecursionError):
            log.skipped += 1
            continue
        _take(row, log)
        if isinstance(row, dict) and "current_steps" in row:
            log.kind, log.planned_steps = "trainer_log", _whole(row.get("total_steps")) or log.planned_steps


def _take(row: Any, log: RawLog) -> None:
    if not isinstance(row, dict):
        log.skipped += 1
        return
    data = row.get("data")
    log.add({**row, **data} if isinstance(data, dict) else row)


def _csv(text: str, log: RawLog) -> None:
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"{log.path} is not CSV", got=error) from error
    columns = set(rows[0]) if rows else set()
    names = _names_of_columns(columns, log.path)
    name = next((column for column in ("tag", "metric", "name") if column in columns), None)
    for row in rows:
        if None in row or None in row.values():  # cut, or with a comma too many: its cells stand in wrong columns
            log.skipped += 1
            continue
        step = next((row[column] for column in ("Step", "step", *STEPS) if row.get(column)), None)
        if {"Value"} <= columns and {"Step"} <= columns:  # TensorBoard: a file for each metric, which names it
            figures = {_tag(log.path) or log.path.stem: row["Value"]}
        elif name is not None and "value" in columns:
            figures = {str(row[name]): row["value"]}
        else:
            figures = {name: row[column] for column, name in names.items()}
        log.add({"step": step, **figures} if step else figures)


def _names_of_columns(columns: set[str], path: Path) -> dict[str, str]:
    """Each column's metric: W&B writes `RUN - METRIC`. DataError where two runs share a file."""
    kept = sorted(one for one in columns if isinstance(one, str) and not one.endswith(("__MIN", "__MAX")))
    names = {column: column.rpartition(" - ")[2] for column in kept}
    runs = {column.rpartition(" - ")[0] for column in kept if " - " in column}
    if len(set(names.values())) < len(names):
        raise DataError(
            f"{path} holds several runs, whose curves cannot be told apart",
            got=", ".join(sorted(runs)[:4]),
            expected="the columns of one run",
            fix="export one run alone, or delete the others' columns",
        )
    return names


def _tag(path: Path) -> str | None:
    """The metric in the name of a file that TensorBoard exported, with its first / again; None for another file."""
    _, mark, tag = path.stem.rpartition("tag-")
    start = next((start for start in ("train", "training", "validation") if tag.startswith(f"{start}_")), None)
    return None if not mark else tag if start is None else f"{start}/{tag.removeprefix(f'{start}_')}"


_PAIR = re.compile(r"""['"]([\w/().@+-]+)['"]\s*:\s*['"]?(-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|-?inf|nan)\b""")
_PROGRESS = re.compile(r"(\d+)/(\d+) \[")
_VERL = re.compile(r"\bstep:\s*(\d+) - (.*)")


def _printed(text: str, log: RawLog) -> None:
    """Printed dictionaries have no step: a progress bar before them tells it, or they are counted."""
    log.kind = "printed"
    count, seen = 0, None
    *whole, last = re.split(r"[\r\n]+", text)
    for line in (*whole, last.rpartition(" - ")[0] if _VERL.search(last) else last):  # verl's last figure may be cut
        for progress in _PROGRESS.finditer(line.partition("{")[0]):
            seen, log.planned_steps = int(progress[1]), int(progress[2])
        verl = _VERL.search(line)
        if verl is not None:
            parts = (part.rpartition(":") for part in verl[2].split(" - "))
            log.add({"step": verl[1], **{name.strip(): value for name, _, value in parts}})
            continue
        figures = dict(_PAIR.findall(line)) if "{" in line else {}
        if figures and line.count("{") != line.count("}"):  # cut before its end, as its last figure may be
            log.skipped += 1
            continue
        if "loss" in figures or any(name.startswith("eval_") for name in figures) or "reward" in figures:
            count += any(not name.startswith("eval_") and name != "epoch" for name in figures)
            log.add({"step": max(count, 1) if seen is None else seen, **figures})
    if log.rows and seen is None and not any(_VERL.search(line) for line in text.splitlines()):
        log.notes.append("the lines do not say their step: they are counted")


CARD = {"training loss": "loss", "validation loss": "eval_loss", "epoch": "epoch", "step": "step"}


def _card(text: str, log: RawLog) -> None:
    """The table below `Training results`: the loss in training, everything else on held-out data."""
    log.kind = "card"
    for name, value in re.findall(r"^- (\w+): ([-+.\deE]+)$", text, flags=re.M):
        if (number := as_number(_parsed(value))) is not None:
            log.settings[name] = number
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "step" in [cell.lower() for cell in cells]:
            header = [CARD.get(cell.lower(), "eval_" + cell[:1].lower() + cell[1:]) for cell in cells]
        elif header and len(cells) == len(header) and line.lstrip().startswith("|"):
            if not set(line) <= set("|-: "):
                log.add(dict(zip(header, cells, strict=True)))
        elif header:
            header = []


def figures_of(row: Mapping[str, Any]) -> Row:
    """The values that are numbers, also as text; steps and nested values are left out."""
    pairs: Iterator[tuple[str, float | None]] = (
        (str(name), as_number(_parsed(value))) for name, value in row.items() if name not in STEPS
    )
    return {name: number for name, number in pairs if number is not None}


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return None


def _whole(value: Any) -> int | None:
    number = as_number(_parsed(value))
    if number is None or not 0 <= number < 1 << 53 or number != int(number):
        return None
    return int(number)


def _check_ordinary(path: Path) -> None:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is a pipe or a device, not a file")


def read_settings(path: str | Path) -> dict[str, Any]:
    """What a YAML or JSON file names: options of another trainer's run, findings that are accepted."""
    from assent.config.loading import read_yaml

    if Path(path).suffix != ".json":
        return read_yaml(path)
    try:
        _check_ordinary(Path(path))
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read", got=error, expected="options as YAML or JSON") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no names with values", got=type(content).__name__, expected="an object")
    return content
