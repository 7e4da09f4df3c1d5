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
) -> Questions:
    """Each question's figures for one model's folder. `limit`: only each task's first questions; 0: all.

    Raises DataError if a task's data cannot be read, or if a task has no metric with a number for each question.
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
    return _questions(found["samples"])


def _questions(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Questions:
    questions: Questions = {}
    for task, rows in samples.items():
        first = {row["filter"] for row in rows}
        for row in sorted(rows, key=lambda row: row["doc_id"]):
            for metric in row["metrics"]:
                name = metric if len(first) == 1 else f"{metric} ({row['filter']})"
                value = row.get(metric)
                if isinstance(value, bool | int | float) and math.isfinite(value):
                    questions.setdefault((task, name), []).append(float(value))
        lengths = {len(values) for (name, _), values in questions.items() if name == task}
        per_filter = len(rows) // max(1, len(first))
        if not lengths or lengths != {per_filter}:
            raise DataError(
                f"lm_eval: the task {task!r} has no metric that is one number for each question",
                expected="a metric such as acc, acc_norm or exact_match",
            )
    return questions


def as_figures(asked: Mapping[str, Questions], baseline: str) -> dict[str, Any]:
    """What evaluation.json holds: `version`, and `tasks`, each with `task`, `metric` and `policies` by name.

    A policy has its `mean` and `difference`: its mean minus the baseline's, paired by question; the baseline has none.
    """
    rows = []
    for task, metric in asked[baseline]:
        policies: dict[str, Any] = {}
        for name, questions in asked.items():
            values = questions[task, metric]
            policies[name] = {"mean": mean_interval(values).as_dict()}
            if name != baseline:
                policies[name]["difference"] = paired_difference(values, asked[baseline][task, metric]).as_dict()
        rows.append({"task": task, "metric": metric, "policies": policies})
    return {"version": _version(), "tasks": rows}


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
    return ["", title, *aligned([("task", "metric", "policy", "mean", f"minus {cut(baseline, 9)}"), *body])]


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
