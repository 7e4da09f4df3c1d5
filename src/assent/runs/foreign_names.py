"""Another trainer's log under our names: which trainer it is, and what its figures are called here (assent.metrics)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.metrics import FOREIGN, declared, is_declared
from assent.runs.foreign_logs import RawLog, figures_of, read_raw_log, read_settings
from assent.runs.foreign_options import our_options

Column = tuple[list[int], list[float]]
Columns = dict[str, Column]

MARKS = (
    (
        "verl",
        (
            "actor/",
            "response_length/",
            "critic/score",
            "actor_pg_",
            "actor_entropy",
            "actor_ppo_kl",
            "critic_score_",
            "response_length_",
        ),
    ),
    ("nemo-rl", ("token_mult_prob_error", "probs_ratio", "rewards_chosen_mean", "mean_gen_tokens_per_sample")),
    ("openrlhf", ("policy_loss", "actor_lr", "reject_reward", "ppo_clip_ratio", "acc_mean")),
)
"""Beginnings of names that only this trainer writes; TensorBoard's files have _ where the metric has /."""

PREFIXES = (("train/", ""), ("training/", ""), ("eval/", "eval_"), ("validation/", "eval_"), ("val/", "val/"))
NOT_METRICS = frozenset(
    {"epoch", "total_flos", "train_runtime", "train_loss", "train_samples_per_second", "train_steps_per_second"}
    | {"total_steps", "percentage", "elapsed_time", "remaining_time", "throughput", "total_tokens", "step_time"}
    | {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "_runtime", "_timestamp", "_wandb"}
    | {"Wall time", "Relative Time (Process)", "Relative Time (Wall)", "num_input_tokens_seen"}
)


@dataclass(frozen=True, slots=True)
class ForeignLog:
    """columns by our names; `written`: when the log was last written, in seconds since 1970."""

    source: str
    columns: Columns
    settings: dict[str, Any]
    planned_steps: int | None
    notes: tuple[str, ...]
    written: float


def read_foreign(path: str | Path, *, stage: str | None = None, settings: str | Path | None = None) -> ForeignLog:
    """A log of another trainer. Raises DataError where nothing can be read."""
    raw = read_raw_log(path)
    names = {_plain(name) for _, row in raw.rows for name in row}
    source = _source(raw, names)
    columns: Columns = {}
    unread: set[str] = set()
    for step, row in raw.rows:
        for theirs, value in row.items():
            ours = _ours(theirs, source, names, stage)
            if ours is None:
                unread |= {theirs} if _plain(theirs) not in NOT_METRICS else set()
                continue
            complement = ours.startswith("1 - ")
            steps, values = columns.setdefault(ours.removeprefix("1 - "), ([], []))
            steps.append(step)
            values.append(1 - value if complement else value)
    _as_reward_model(columns, stage)
    _add_margins(columns)
    options = {**raw.settings, **(read_settings(settings) if settings is not None else {})}
    return ForeignLog(source, columns, our_options(options), raw.planned_steps, _notes(raw, unread), raw.written)


def our_figures(row: Mapping[str, Any], *, source: str = "trl", stage: str | None = None) -> dict[str, float]:
    """One logged row under our names; figures whose meaning is not known are left out."""
    figures = figures_of(row)
    names = {_plain(name) for name in figures}
    found: dict[str, float] = {}
    for theirs, value in figures.items():
        ours = _ours(theirs, source, names, stage)
        if ours is not None:
            found[ours.removeprefix("1 - ")] = 1 - value if ours.startswith("1 - ") else value
    return found


def _plain(name: str) -> str:
    """Without the prefix that a tracker puts before it; held-out figures as `eval_NAME`."""
    for prefix, ours in PREFIXES:
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    return name


def _source(raw: RawLog, names: Iterable[str]) -> str:
    if raw.kind == "trainer_log":
        return "llama-factory"
    for source, marks in MARKS:
        if any(name.removeprefix("eval_").startswith(marks) for name in names):
            return source
    return "trl"


def _ours(theirs: str, source: str, names: set[str], stage: str | None) -> str | None:
    """Our name of a figure; None where its meaning is not known."""
    name = _plain(theirs)
    held_out = "eval_" if name.startswith("eval_") else ""
    name = name.removeprefix("eval_")
    if name == "epoch":
        return None if held_out else "epoch"
    if name in NOT_METRICS or held_out + name in NOT_METRICS:
        return None
    ours = FOREIGN[source].get(name)
    sampled = any(part in names for part in ("reward", "completion_length", "completions/mean_length"))
    if source == "trl" and name == "kl" and not sampled:
        ours = "kl_baseline" if "rewards/chosen" in names else None
    if source == "trl" and name == "entropy" and sampled:
        ours = "policy/entropy_avg"
    if source == "llama-factory" and name == "accuracy" and stage == "reward":
        ours = "accuracy"
    if ours is None and not is_declared(name):  # a tracker's file name has _ where the metric has /
        flat = {known.replace("/", "_"): known for known in (*(metric.name for metric in declared()), *FOREIGN[source])}
        name = flat.get(name, name)
        ours = FOREIGN[source].get(name)
    if ours is None and is_declared(name):
        ours = name
    if ours is None or ours.removeprefix("1 - ").startswith("gate/"):
        return None
    return f"1 - {held_out}{ours.removeprefix('1 - ')}" if ours.startswith("1 - ") else held_out + ours


def _as_reward_model(columns: Columns, stage: str | None) -> None:
    """OpenRLHF calls scores and implicit rewards alike. Implicit rewards start at 0; others are a reward model's."""
    chosen, rejected = columns.get("rewards/chosen"), columns.get("rewards/rejected")
    of_pairs = ("rewards/margins", "logps/chosen", "loss/preference")  # what a policy's loss logs beside them
    if chosen is None or rejected is None or any(name in columns for name in of_pairs):
        return
    is_reward = max(abs(chosen[1][0]), abs(rejected[1][0])) > 0.05 if stage is None else stage == "reward"
    if is_reward:
        margins = _difference(chosen, rejected)
        for name in [name for name in columns if name.removeprefix("eval_").startswith("rewards/")]:
            column = columns.pop(name)
            if name.endswith("accuracies"):
                columns[name.replace("rewards/accuracies", "accuracy")] = column
        if margins[0]:
            columns["margin"] = margins


def _add_margins(columns: Columns) -> None:
    for start in ("", "eval_"):
        chosen, rejected = columns.get(f"{start}rewards/chosen"), columns.get(f"{start}rewards/rejected")
        if chosen is not None and rejected is not None and f"{start}rewards/margins" not in columns:
            margins = _difference(chosen, rejected)
            if margins[0]:
                columns[f"{start}rewards/margins"] = margins


def _difference(left: Column, right: Column) -> Column:
    """At the steps that both have: none, where each batch of thumbs is of one kind."""
    other = dict(zip(*right, strict=True))
    both = [(step, value - other[step]) for step, value in zip(*left, strict=True) if step in other]
    return [step for step, _ in both], [value for _, value in both]


def _notes(raw: RawLog, unread: set[str]) -> tuple[str, ...]:
    notes = list(raw.notes)
    if raw.skipped:
        notes.append(f"{raw.skipped:,} lines or rows of {raw.path.name} cannot be read and are left out")
    if unread:
        shown = ", ".join(sorted(unread)[:8])
        more = f" and {len(unread) - 8} more" if len(unread) > 8 else ""
        notes.append(f"not read, as their meaning is not known: {shown}{more}")
    return tuple(notes)
