"""The gates of a planned pipeline: held-out agreement after training; distance, faults, signature before release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assent.planning.rules import rules
from assent.planning.stages import BEST_OF, PlannedStage, Wanted

AGREEMENT = {"dpo": ("train", "eval_rewards/accuracies"), "pl-dpo": ("train", "eval_rewards/accuracies"),
             "iterated-dpo": ("train", "eval_rewards/accuracies"),
             "best-of-n": ("reward", "eval_accuracy")}  # fmt: skip
"""Methods with a held-out figure of agreement: the stage that has it, and its name."""


def gated(stages: list[PlannedStage], wanted: Wanted) -> tuple[list[PlannedStage], dict[str, Any]]:
    """The stages with gates between them, and the limits as the file's variables."""
    limits: dict[str, Any] = {}
    found: list[PlannedStage] = []
    trained, figure = AGREEMENT.get(wanted.choice.method, ("", ""))
    for stage in stages:
        found.append(stage)
        if stage.name == trained:
            limits["min_agreement"] = _limit("min_agreement")
            options = {"run": f"${{{trained}.output_dir}}", "min_held_out": {figure: "${min_agreement}"}}
            found.append(_gate("agreement", options, rules()["gates"]["min_agreement"]["reason"]))
        if stage.command == "eval":
            limits |= {"kl_budget": _limit("kl_budget"), "min_win_rate": _limit("min_win_rate")}
            found.append(_release(wanted))
    return found, limits


def _limit(name: str) -> float:
    return rules()["gates"][name]["value"]


def _gate(name: str, options: Mapping[str, Any], why: str) -> PlannedStage:
    return PlannedStage(name=f"gate-{name}", command="gate", options=options, why=f"gate: {why}")


def _release(wanted: Wanted) -> PlannedStage:
    policy = f"best-of-{BEST_OF}" if wanted.choice.method == "best-of-n" and wanted.reward is None else "trained"
    options: dict[str, Any] = {
        "evaluation": "${evaluation.evaluation}",
        "policy": policy,
        "max_kl_nats": "${kl_budget}",
        "min_win_rate": "${min_win_rate}",
    }
    if wanted.max_fault:
        options["max_safety"] = dict(wanted.max_fault)
    why = "release, by the ends of the 95% intervals: near enough to the reference, no worse than before"
    why += ", and no fault of safety above its limit" if wanted.max_fault else ""
    if wanted.sign_off is not None:
        options |= {"model": wanted.released, "sign_off": wanted.sign_off}
        why += "; and somebody has signed for this very model"
    return _gate("release", options, why)
