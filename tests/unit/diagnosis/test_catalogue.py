"""The failures that the page lists: each has a rule or is said not to be seen; those that look alike are told apart."""

from __future__ import annotations

import re
from typing import Any

import pytest

from assent.diagnosis.case import example
from assent.diagnosis.data_rules import data_rules
from assent.diagnosis.examine import examine
from assent.diagnosis.model_rules import model_rules
from assent.diagnosis.rules import all_rules
from tests.support.docs import ROOT

RULES = (*all_rules(), *data_rules(), *model_rules())
CODES = [*(f"P{n}" for n in range(1, 20)), *(f"D{n}" for n in range(1, 16)), *(f"R{n}" for n in range(1, 11))]
SECTION = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8").split("## Which failures it knows", 1)[1]
ROWS = dict(re.findall(r"^\| ([PDR]\d+) \| (.*) \|$", SECTION, flags=re.MULTILINE))


def test_every_failure_has_a_rule_or_is_said_not_to_be_seen() -> None:
    assert list(ROWS) == CODES
    names = {rule.name for rule in RULES}
    for code, row in ROWS.items():
        named = set(re.findall(r"`([a-z_]+)`", row))
        assert named <= names, code
        assert named or "not seen" in row, code
    assert names <= set(re.findall(r"`([a-z_]+)`", SECTION))  # every rule stands somewhere


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_source_that_names_a_failure_is_in_its_row(rule: Any) -> None:
    _, mark, codes = rule.source.partition("failures ")
    for code in re.findall(r"\b[PDR]\d+\b", codes if mark else ""):
        assert f"`{rule.name}`" in ROWS[code], code


UP = [0.2 * i for i in range(20)]
BUMP = [0.1 * i if i < 8 else 0.8 - 0.1 * (i - 8) for i in range(20)]
LEVEL = [0.5, 0.52] * 10
KL = {"objective/kl": [0.7 * i for i in range(20)], "objective/kl_se": [0.1] * 20, "objective/scores": UP}
SAMPLER = {"objective/kl_se": [0.2] * 20, "objective/scores": LEVEL}
ENTROPY = "policy/entropy_avg"
HELD_OUT = ("eval_logps/chosen", "eval_rewards/chosen")
PAIRS: dict[str, Any] = {"rewards/accuracies": [1.0] * 20, "logps/chosen": [-40.0 - i for i in range(20)]}


def judged(train: list[float], held_out: float) -> dict[str, Any]:
    ends = {"eval_accuracy": held_out, "eval_accuracy_low": held_out - 0.04, "eval_accuracy_high": held_out + 0.04}
    return {"accuracy": train, **{name: {20: value} for name, value in ends.items()}}


ALIKE: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
    ("reward_hacked", "kl_unbounded", "ppo", {**KL, "gold/total": BUMP}, {}),
    ("kl_unbounded", "reward_hacked", "ppo", {**KL, "gold/total": UP}, {}),
    ("kl_negative", "sampler_differs", "ppo",
     {**SAMPLER, "objective/kl": [-2.0] * 20, "rollout/logprob_mismatch": [1e-4] * 20}, {}),
    ("sampler_differs", "kl_negative", "ppo",
     {**SAMPLER, "objective/kl": [0.1] * 20, "rollout/logprob_mismatch": [2.0] * 20}, {}),
    ("entropy_collapses", "reward_hacked", "ppo",
     {"objective/scores": UP, "gold/total": UP, ENTROPY: [2.0 / (1 + i) for i in range(20)]}, {}),
    ("reward_hacked", "entropy_collapses", "ppo",
     {"objective/scores": UP, "gold/total": BUMP, ENTROPY: [2.0] * 20}, {}),
    ("reference_moves", "beta_too_high", "dpo",
     {"rewards/margins": [0.0] * 20, HELD_OUT[0]: {1: -50.0, 20: -44.0}, HELD_OUT[1]: {1: 0.0, 20: 0.0}},
     {"beta": 5.0}),
    ("beta_too_high", "reference_moves", "dpo",
     {"rewards/margins": UP, HELD_OUT[0]: {1: -50.0, 20: -49.5}, HELD_OUT[1]: {1: 0.0, 20: 2.5}}, {"beta": 5.0}),
    ("chosen_falls", "saturated", "dpo",
     {**PAIRS, "loss": [0.69 - 0.01 * i for i in range(20)], "rewards/margins": [0.02 * i for i in range(20)],
      "rewards/chosen": [-0.1 * i + 0.03 * (-1) ** i for i in range(20)],
      "rewards/rejected": [-0.1 * i for i in range(20)]},
     {"beta": 0.1}),
    ("saturated", "chosen_falls", "dpo",
     {**PAIRS, "loss": [0.69 / (1 + i * i) for i in range(20)], "rewards/margins": [1.0 * i for i in range(20)],
      "rewards/chosen": [0.5 * i for i in range(20)], "rewards/rejected": [-0.5 * i for i in range(20)]},
     {"beta": 0.1}),
    ("ranks_at_chance", "labels_disagree", "reward", judged([0.5, 0.48, 0.52, 0.5] * 8, 0.5), {"batch_size": 32}),
    ("labels_disagree", "ranks_at_chance", "reward", judged([0.5, 0.6, *[0.66, 0.64] * 15], 0.65), {"batch_size": 32}),
]  # fmt: skip
"""Two by two, with what both rules read: P1 and P6, P4 and P9, P7 and P1, D3 and D7, D5 and D6, R2 and R3."""


NEVER_GRAVE = {"labels_disagree"}


@pytest.mark.parametrize(
    ("found", "other", "stage", "series", "options"), ALIKE, ids=[f"{found}, not {other}" for found, other, *_ in ALIKE]
)
def test_failures_that_look_alike_are_told_apart(
    found: str, other: str, stage: str, series: dict[str, Any], options: dict[str, Any]
) -> None:
    known = {"loss_type": "sigmoid"} if stage == "dpo" else {}
    report = examine(example(series, stage=stage, status="finished", **known, **options))
    assert found in {one.rule for one in report.findings if one.severity != "info" or one.rule in NEVER_GRAVE}
    assert other not in {one.rule for one in report.findings if one.severity != "info"}
    answered = {*report.checked, *(rule for rule, why in report.not_checked if f"{found} has found" in why)}
    assert other in answered, dict(report.not_checked).get(other)  # it was asked, or says who has answered
