"""The stages of an update, with gates against the release, and the file for `assent update`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assent.planning.pipeline_file import commented, dumped, stage_lines
from assent.planning.rules import rules
from assent.planning.stages import BATCH, PlannedStage
from assent.planning.starting import STARTS
from assent.planning.update import Verdict, Way

SLICE_PROMPTS = 40
"""Prompts of a slice from which it has a gate of its own."""
NEW, RELEASE = "new", "release"
HELD_OUT = 0.2
"""Share of the logs' prompts that are held out (LoggedDataConfig.fraction)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedUpdate:
    """What the file needs.

    as_text  whether the model has no chat template
    length   the longest sequence that the model reads
    labels   where people's labels go, if nothing else rates new samples
    rows     pairs or ratings in the logs
    slices   the release's slices that are large enough to have a gate
    """

    model: str
    logs: str
    baseline: str
    columns: Mapping[str, str]
    way: Way
    since: str | None
    up_above: float
    as_text: bool
    length: int
    judge: str
    safety: str | None
    max_fault: Mapping[str, float]
    reward: str | None
    labels: str
    rows: int
    slices: Sequence[str] = field(default=())


def update_stages(wanted: WantedUpdate) -> list[PlannedStage]:
    way, stages = wanted.way, [_data(wanted)]
    steps = math.ceil(wanted.rows * (1 - HELD_OUT) / BATCH)
    data, held_out = "${data.train}", {"eval_data": "${data.eval}", "eval_steps": max(1, steps // 4),
                                       "metric_for_best_model": "loss"}  # fmt: skip
    if way.kind == "prompts":
        stages += _rated(wanted)
        data, held_out = f"${{labels.{'labels' if wanted.reward is None else 'judged'}}}", {}
    command = "kto" if way.kind == "thumbs" else "dpo"
    start = STARTS[command]
    options: dict[str, Any] = {"model": wanted.model, "data": data, **held_out, "max_length": wanted.length,
                               "batch_size": BATCH, "learning_rate": start.learning_rate}  # fmt: skip
    options |= {"reference": "logged"} if way.logged else {}
    why = f"{way.title}. Reference: {way.reference}. The learning rate is that of {start.source}, for models of "
    why += f"{start.sizes}; smaller ones bear more"
    stages.append(PlannedStage(name="train", command=command, options=options, why=why))
    return [*stages, _evaluation(wanted), _gate(wanted)]


def gates_of(wanted: WantedUpdate) -> dict[str, Mapping[str, Any]]:
    """The rules of the limits that the file has, by the names of its variables."""
    return {name: rule for name, rule in rules()["update"]["gates"].items() if name != "min_slice" or wanted.slices}


def _data(wanted: WantedUpdate) -> PlannedStage:
    way = wanted.way
    options: dict[str, Any] = {"logs": wanted.logs, "baseline": wanted.baseline, "kind": way.kind,
                               "fraction": HELD_OUT}  # fmt: skip
    options |= {"columns": dict(wanted.columns)} if wanted.columns else {}
    options |= {"since": wanted.since} if wanted.since is not None and way.kind != "prompts" else {}
    options |= {"up_above": wanted.up_above} if way.kind == "thumbs" else {}
    options |= {name: True for name in ("logged", "weighted") if getattr(way, name)}
    options |= {"as_text": True} if wanted.as_text else {}
    why = "rows to train on, and prompts to compare on: of today (era: now) and of the release (era: release)"
    why += "; each row counts by one over the probability of its rating" if way.weighted else ""
    return PlannedStage(name="data", command="logged-data", options=options, why=why)


def _rated(wanted: WantedUpdate) -> list[PlannedStage]:
    sample = {"model": wanted.model, "data": "${data.train}", "num_completions": 2, "max_length": wanted.length,
              "max_new_tokens": _new_tokens(wanted)}  # fmt: skip
    why = "two new answers to each logged prompt"
    answers = PlannedStage(name="answers", command="sample", options=sample, why=why)
    if wanted.reward is not None:
        options: dict[str, Any] = {"data": "${answers.completions}", "reward": wanted.reward, "controls": 0}
        why = f"{wanted.reward} says which is better; it is not what the evaluation asks"
        return [answers, PlannedStage(name="labels", command="judge", options=options, why=why)]
    options = {"files": [wanted.labels], "completions": "${answers.completions}"}
    why = "people say which is better (assent label); until their file is there the update waits, and the same command "
    return [answers, PlannedStage(name="labels", command="collect", options=options, why=why + "goes on")]


def _new_tokens(wanted: WantedUpdate) -> int:
    return max(16, wanted.length // 4)


def _evaluation(wanted: WantedUpdate) -> PlannedStage:
    options: dict[str, Any] = {
        "policies": {NEW: "${train.model_path}", RELEASE: wanted.model}, "baseline": RELEASE, "reference": RELEASE,
        "data": "${data.prompts}", "judge": wanted.judge, "slices": ["era", *(["slice"] if wanted.slices else [])],
        "max_length": wanted.length, "max_new_tokens": _new_tokens(wanted),
    }  # fmt: skip
    options |= {"safety": wanted.safety} if wanted.safety is not None else {}
    why = f"the new model against the release, on the same prompts, judged by {wanted.judge}"
    return PlannedStage(name="evaluation", command="eval", options=options, why=why)


def _gate(wanted: WantedUpdate) -> PlannedStage:
    slices = {"era=now": "${min_win_rate}", "era=release": "${min_before}"}
    slices |= {f"slice={name}": "${min_slice}" for name in wanted.slices}
    options: dict[str, Any] = {
        "evaluation": "${evaluation.evaluation}", "policy": NEW, "min_win_rate": "${min_win_rate}",
        "max_kl_nats": "${kl_budget}", "min_slice_win_rate": slices,
    }  # fmt: skip
    options |= {"max_safety": dict(wanted.max_fault)} if wanted.max_fault else {}
    why = "; ".join(rule["reason"] for rule in gates_of(wanted).values())
    return PlannedStage(name="gate", command="gate", options=options, why=f"against the release: {why}")


def update_text(
    stages: Sequence[PlannedStage], *, name: str, wanted: WantedUpdate, verdicts: Sequence[Verdict], output_dir: str
) -> str:
    """The file as text. `assent update` executes it as it stands; paths are as the user gave them."""
    limits = {name: float(rule["value"]) for name, rule in gates_of(wanted).items()}
    head = [f"Written by assent plan --update: {wanted.way.title}.", f"Reference: {wanted.way.reference}."]
    head += [f"- {one.verdict}: {one.title}: {one.reason} [{one.source}]" for one in verdicts]
    lines = [line for text in head for line in commented(text)]
    lines.append(dumped({"name": name, "output_dir": output_dir, "seed": 0}))
    lines.append(dumped({"new": "${train.model_path}", "replaces": wanted.model}))
    lines += ["# The gates' limits; --set NAME=VALUE gives another.", dumped({"variables": limits})]
    return "\n".join([*lines, "stages:", *stage_lines(stages, fast=False)]) + "\n"
