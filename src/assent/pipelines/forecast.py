"""How long a pipeline still takes: from what its stages are configured to do, and from the time that stages have taken.

A stage's work is counted in passes over a completion: a forward pass is one, an update three. A rate (seconds for a
unit of work) comes from stages of the same command that have finished or are running, else from all of them. Until
something has been measured there is no estimate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assent.config.loading import parse_options
from assent.pipelines.plan import Stage
from assent.pipelines.references import REFERENCE
from assent.runs.folder import MANIFEST, METRICS

READ, UPDATE, SAMPLE = 1.0, 3.0, 2.0
"""Work of one completion. Sampling reads its prompt, and then one token at a time."""
OF_A_ROW = {"sft": UPDATE, "reward": 2 * UPDATE, "dpo": 2 * (READ + UPDATE), "kto": 2 * (READ + UPDATE)}
ONLINE = {"ppo", "a2c", "grpo", "rloo", "online-dpo"}
LAST_LINE = 65_536
"""Bytes at the end of metrics.jsonl that surely hold a step's line."""

Entries = Mapping[str, Mapping[str, Any]]
"""What pipeline.json holds of each stage that has started, by name."""


def seconds_left(
    stages: Sequence[Stage], record: Mapping[str, Any], *, jobs: int = 1, now: datetime | None = None
) -> float | None:
    """Seconds until the last stage ends; None while nothing has been measured.

    record   the content of pipeline.json
    jobs     how many stages run at the same time: their work is shared, but no stage is cut
    """
    now = now or datetime.now(UTC)
    entries = {entry["name"]: entry for entry in record["stages"]}
    work = {stage.name: work_of(stage, entries) for stage in stages}
    took: dict[str, float] = {}
    left: dict[str, float] = {}
    for stage in stages:
        entry = entries.get(stage.name, {})
        if entry.get("result") is not None:
            spent, _ = _of_run(stage.output_dir) or (0.0, 0.0)  # of a resumed stage also what it took before
            took[stage.name] = max(_between(entry["started_at"], entry["finished_at"]), spent)
            left[stage.name] = 0.0
        elif entry and (run := _of_run(stage.output_dir)) is not None:
            spent, rest = run
            took[stage.name] = max(_since(entry["started_at"], now), spent) + rest
            left[stage.name] = rest
    known = [value for value in work.values() if value]
    if not known:
        return None
    for stage in stages:
        if stage.name in left:
            continue
        amount = work[stage.name]
        amount = sum(known) / len(known) if amount is None else amount
        rate = _rate(stage, stages, work, took) if amount else 0.0
        if rate is None:
            return None
        whole = rate * amount
        entry = entries.get(stage.name, {})
        left[stage.name] = max(whole - _since(entry["started_at"], now), 0.0) if entry else whole
    return max(sum(left.values()) / jobs, max(left.values(), default=0.0))


def work_of(stage: Stage, entries: Entries) -> float | None:
    """The stage's configured work; None if it depends on a file that is not there yet, 0 if it is next to nothing."""
    started = entries.get(stage.name, {}).get("options")
    option = started or parse_options(stage.step.config_class(), stage.options).model_dump()
    if stage.command in ONLINE:
        sampled = option["total_steps"] * option["batch_size"] * option["num_completions"]
        passes = option.get("num_ppo_epochs", option.get("updates_per_round", 1))
        learners = 2 if "critic" in option else 1
        return float(sampled * (SAMPLE + 2 * READ + passes * learners * UPDATE))
    if stage.command in OF_A_ROW:
        rows = option["max_steps"] * option["batch_size"] or _rows(option["data"], entries, option["num_train_epochs"])
        return None if rows is None else rows * OF_A_ROW[stage.command]
    if stage.command == "sandbox-labels":
        return float((option["num_pairs"] + option["num_test_pairs"]) * 2 * (SAMPLE + READ))
    if stage.command in ("sample", "best-of-n", "eval"):
        prompts = option.get("num_prompts") or _rows(option["data"], entries, 1)
        return None if prompts is None else prompts * _answers(stage.command, option)
    return 0.0


def _answers(command: str, option: Mapping[str, Any]) -> float:
    """Work for each prompt."""
    if command == "sample":
        return float(option["num_completions"] * SAMPLE)
    if command == "best-of-n":
        return float((option["n"] or 1) * (SAMPLE + READ))
    each = (option["samples_per_prompt"] or 4) + 1
    return float(len(option["policies"]) * each * (SAMPLE + 2 * READ) + option["best_of_n"] * (SAMPLE + READ))


def _rows(data: Any, entries: Entries, passes: float) -> float | None:
    """Rows of a JSONL file, or of one that an earlier stage has written, times `passes`."""
    if match := REFERENCE.fullmatch(str(data)):
        stage, _, output = match.group(1).partition(".")
        data = ((entries.get(stage) or {}).get("result") or {}).get(output)
    path = Path(str(data))
    if path.suffix != ".jsonl" or not path.is_file():
        return None
    with path.open("rb") as file:
        return passes * sum(1 for _ in file)


def _rate(
    stage: Stage, stages: Sequence[Stage], work: Mapping[str, float | None], took: Mapping[str, float]
) -> float | None:
    """Seconds for a unit of work."""
    measured = [other for other in stages if other.name in took and work[other.name]]
    alike = [other for other in measured if other.command == stage.command] or measured
    total = sum(work[other.name] or 0.0 for other in alike)
    return sum(took[other.name] for other in alike) / total if total else None


def _of_run(folder: Path) -> tuple[float, float] | None:
    """Seconds that a training stage has taken over all its processes, and still takes at its own rate; None if its run
    folder does not tell."""
    try:
        planned = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["facts"]["planned_steps"]
        with (folder / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LAST_LINE))
            rows = map(json.loads, reversed(file.read().splitlines()))
            last = next(row for row in rows if "cost/seconds" in row)  # the others are held-out figures
        spent = last["cost/seconds"]
        return spent, (planned - last["step"]) * spent / last["step"]
    except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError, StopIteration):
        return None  # not there yet, or being written: the configured work must do


def _between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _since(start: str, now: datetime) -> float:
    return max((now - datetime.fromisoformat(start)).total_seconds(), 0.0)
