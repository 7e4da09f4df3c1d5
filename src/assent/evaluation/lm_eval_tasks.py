"""Tasks of EleutherAI's lm-evaluation-harness before and after training, with paired intervals over the questions.

The harness computes each question's figures; the means and intervals are ours, so that two policies are compared on
the same questions.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from assent.errors import ConfigError, DataError
from assent.models.loading import load_policy, load_tokenizer
from assent.runs.text_table import aligned, cut
from assent.statistics.intervals import Estimate, mean_interval, paired_difference

Questions = dict[tuple[str, str], list[float]]
"""A task and a metric to that metric's value for each question, in the questions' order."""
Metric = tuple[str, str]
"""A task and one of its metrics."""


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises ConfigError for a task that the harness does not know and that is no file, or if it is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "lm_eval needs lm-evaluation-harness, which is not installed", fix="pip install 'assent[lm-eval]'"
        )
    files = [task for task in tasks if task.endswith((".yaml", ".yml"))]
    for task in files:
        if not Path(task).is_file():
            raise ConfigError("lm_eval: no such task file", got=task, expected="a YAML file, or a task of the harness")
    if named := [task for task in tasks if task not in files]:
        from lm_eval.tasks import TaskManager

        known = TaskManager()
        for task in named:
            if not known.match_tasks([task]):
                raise ConfigError(
                    f"lm_eval: the harness has no task {task!r}", fix="lm-eval ls tasks prints all; or name a YAML file"
                )


def tasks_hash(tasks: Sequence[str], limit: int) -> str:
    """SHA-256 of the tasks' names, of the content of their files, of the limit and of the harness's version."""
    files = {task: Path(task).read_text(encoding="utf-8") for task in tasks if Path(task).is_file()}
    return hashlib.sha256(json.dumps([list(tasks), files, limit, _version()]).encode()).hexdigest()


def ask(
    model: str, tasks: Sequence[str], *, device: torch.device, dtype: str, revision: str | None, limit: int, seed: int
) -> tuple[Questions, list[Metric]]:
    """Each question's figures for one model's folder, and the metrics that are no mean over questions. `limit`: only
    each task's first questions; 0: all.

    Raises DataError if a task's data cannot be read, or if a task has no metric that is a mean over its questions.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    policy: Any = load_policy(model, dtype=dtype, revision=revision)
    policy.to(device)
    said = io.StringIO()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), seed)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            found = simple_evaluate(
                model=HFLM(pretrained=policy, tokenizer=load_tokenizer(model, revision=revision), batch_size=8),
                tasks=list(tasks),
                limit=limit or None,
                log_samples=True,
                bootstrap_iters=0,
                **seeds,
            )
    except (OSError, ValueError, KeyError, ConnectionError, AttributeError) as error:
        last = (said.getvalue().strip().splitlines() or [""])[-1]
        raise DataError(
            f"lm_eval: {', '.join(tasks)} cannot be asked: {type(error).__name__}: {error}",
            got=cut(last, 200) or None,
            fix="without a network, name task files whose data_files are local",
        ) from error
    return _questions(found["samples"], found["results"])


def _questions(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], results: Mapping[str, Mapping[str, Any]]
) -> tuple[Questions, list[Metric]]:
    """The metrics that are means over the questions, and those that are not. `results`: the harness's own aggregates,
    by task and "metric,filter"."""
    questions: Questions = {}
    left_out: list[Metric] = []
    for task, rows in samples.items():
        filters = list(dict.fromkeys(row["filter"] for row in rows))
        for own_filter in filters:
            own = sorted((row for row in rows if row["filter"] == own_filter), key=lambda row: row["doc_id"])
            for metric in dict.fromkeys(name for row in own for name in row["metrics"]):
                key = task, metric if len(filters) == 1 else f"{metric} ({own_filter})"
                values: list[Any] = [row.get(metric) for row in own]
                if _is_mean(values, results.get(task, {}).get(f"{metric},{own_filter}")):
                    questions[key] = [float(value) for value in values]
                else:
                    left_out.append(key)
        if not any(name == task for name, _ in questions):
            raise DataError(
                f"lm_eval: the task {task!r} has no metric that is the mean of one number for each question",
                got=", ".join(metric for name, metric in left_out if name == task) or None,
                expected="a metric such as acc, acc_norm or exact_match",
            )
    return questions, left_out


def _is_mean(values: Sequence[Any], aggregate: Any) -> bool:
    """Whether the harness's aggregate is the mean of these: it may be a median, or a score of the whole."""
    if not all(isinstance(value, bool | int | float) and math.isfinite(value) for value in [*values, aggregate]):
        return False
    return math.isclose(math.fsum(values) / len(values), aggregate, rel_tol=1e-6, abs_tol=1e-9)


def as_figures(asked: Mapping[str, tuple[Questions, list[Metric]]], baseline: str) -> dict[str, Any]:
    """What evaluation.json holds: `version`, `tasks`, each with `task`, `metric` and `policies` by name, and the
    metrics `left_out`, which are no mean over the questions for some policy.

    A policy has its `mean` and `difference`: its mean minus the baseline's, paired by question; the baseline has none.
    """
    rows = []
    left_out = dict.fromkeys(key for _, others in asked.values() for key in others)
    for task, metric in (key for key in asked[baseline][0] if key not in left_out):
        policies: dict[str, Any] = {}
        for name, (questions, _) in asked.items():
            values = questions[task, metric]
            policies[name] = {"mean": mean_interval(values).as_dict()}
            if name != baseline:
                policies[name]["difference"] = paired_difference(values, asked[baseline][0][task, metric]).as_dict()
        rows.append({"task": task, "metric": metric, "policies": policies})
    return {"version": _version(), "tasks": rows, "left_out": [{"task": task, "metric": m} for task, m in left_out]}


def task_lines(figures: Mapping[str, Any], baseline: str) -> list[str]:
    """The figures as text within 80 columns."""
    body = []
    for row in figures["tasks"]:
        for name, found in row["policies"].items():
            mean = Estimate.from_dict(found["mean"])
            difference = Estimate.from_dict(found["difference"]).text() if "difference" in found else "—"
            head = (cut(row["task"], 16), cut(row["metric"], 12)) if name == baseline else ("", "")
            body.append((*head, cut(name, 12), mean.text(), difference))
    title = f"lm-evaluation-harness {figures['version']}; differences paired by question"
    left_out = ", ".join(f"{row['task']} {row['metric']}" for row in figures.get("left_out", ()))
    told = textwrap.wrap(f"left out, because they are no mean over questions: {left_out}", 80) if left_out else []
    return ["", title, *aligned([("task", "metric", "policy", "mean", f"minus {cut(baseline, 9)}"), *body]), *told]


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
