"""The gates of a planned pipeline: held-out agreement after training; distance, faults, signature before release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assent.planning.rules import rules
from assent.planning.stages import PlannedStage, Wanted, main_source

AGREEMENT = {"dpo": "eval_rewards/accuracies", "pairs": "eval_accuracy", "rankings": "eval_accuracy",
             "thumbs": "eval_label_accuracy"}  # fmt: skip
"""Held-out figures of agreement with labels: of the command dpo, and of a reward model by the kind of its data."""


def gated(stages: list[PlannedStage], wanted: Wanted) -> tuple[list[PlannedStage], dict[str, Any]]:
    """The stages with gates between them, and the limits as the file's variables."""
    limits: dict[str, Any] = {}
    found: list[PlannedStage] = []
    kind = main_source(wanted.sources, wanted.choice.method).kind
    for stage in stages:
        found.append(stage)
        figure = AGREEMENT.get(kind if stage.command == "reward" else stage.command)
        if figure is not None:
            limits["min_agreement"] = _limit("min_agreement")
            options = {"run": f"${{{stage.name}.output_dir}}", "min_held_out": {figure: "${min_agreement}"}}
            found.append(_gate("agreement", options, rules()["gates"]["min_agreement"]["reason"]))
        if stage.command == "eval":
            limits["min_win_rate"] = _limit("min_win_rate")
            if not wanted.takes_chosen:  # no KL can be measured of a file of answers
                limits["kl_budget"] = _limit("kl_budget")
            found.append(_release(wanted))
    return found, limits


def _limit(name: str) -> float:
    return float(rules()["gates"][name]["value"])


def _gate(name: str, options: Mapping[str, Any], why: str) -> PlannedStage:
    return PlannedStage(name=f"gate-{name}", command="gate", options=options, why=f"gate: {why}")


def _release(wanted: Wanted) -> PlannedStage:
    chosen = wanted.choice.method == "best-of-n" and not wanted.takes_chosen
    options: dict[str, Any] = {"evaluation": "${evaluation.evaluation}", "min_win_rate": "${min_win_rate}"}
    options["policy"] = f"best-of-{wanted.best_of}" if chosen else "trained"
    if not wanted.takes_chosen:
        options["max_kl_nats"] = "${kl_budget}"
    if wanted.max_fault:
        options["max_safety"] = dict(wanted.max_fault)
    why = "release, by the ends of the 95% intervals: no worse than before"
    why += "" if wanted.takes_chosen else ", near enough to the reference"
    why += ", and no fault of safety above its limit" if wanted.max_fault else ""
    if wanted.sign_off is not None:
        options |= {"model": wanted.released, "sign_off": wanted.sign_off}
        why += "; and somebody has signed for this very model"
    return _gate("release", options, why)
