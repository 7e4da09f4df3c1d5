"""Other trainers' options: read under our names, and ours named as theirs, or said to have no name there."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assent.diagnosis.case import Case
from assent.diagnosis.doctor_text import lines_of_finding, options_named
from assent.diagnosis.examine import examine
from assent.diagnosis.finding import Finding, times
from assent.diagnosis.opening import case_of_log
from assent.diagnosis.rule import EVERY, Rule
from assent.diagnosis.rules import all_rules
from assent.pipelines.steps import STEPS
from assent.runs.foreign_options import CALLED, ROWS, our_options, their_name

OWN = {name for stage in EVERY for name in STEPS[stage].config_class().model_fields} | {"label_smoothing"}


def test_every_row_of_the_table_names_a_trainer_its_stages_and_an_option_of_ours() -> None:
    for trainer, stages, ours, theirs, _ in ROWS:
        assert trainer in CALLED
        assert stages is None or stages <= EVERY
        assert ours in OWN, ours
        assert theirs
        assert not any("|" in name for name in theirs)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name)
def test_every_option_that_a_finding_names_is_one_of_ours(rule: Rule) -> None:
    """So that what is said of it for another trainer is said of the right one."""
    module = importlib.import_module(f"assent.diagnosis.rules.{rule.name}")
    for case in (module.FIRES, *getattr(module, "FIRES_ALSO", ())):
        found = rule.ask(case)
        assert found is not None
        assert set(options_named(found)) <= OWN | {"reward_ensemble", "pid"}, found.next_action


def said(finding: Finding, source: str, stage: str) -> list[str]:
    lines = lines_of_finding(finding, Case(source=source, stage=stage))
    text = " ".join(line.strip() for line in lines)
    _, mark, there = text.partition("there: ")
    return there.split("; ") if mark else []


def finding(next_action: str, **fix: Any) -> Finding:
    return Finding(verdict="so", evidence=(), next_action=next_action, fix=fix)


@pytest.mark.parametrize(
    ("source", "stage", "lines"),
    [
        ("trl", "grpo", ["kl_coef is beta", "num_ppo_epochs is num_iterations",
                         "target_kl is Assent's name: none of TRL is known for it"]),
        ("trl", "ppo", ["target_kl is Assent's name: none of TRL is known for it"]),
        ("openrlhf", "ppo", ["kl_coef is algo.kl.init_coef (older: init_kl_coef)",
                             "learning_rate is actor.adam.lr (older: actor_learning_rate)",
                             "num_ppo_epochs is train.max_epochs (older: max_epochs)",
                             "target_kl is Assent's name: none of OpenRLHF is known for it"]),
        ("verl", "grpo", ["kl_coef is algorithm.kl_ctrl.kl_coef (with use_kl_in_reward) or "
                          "actor_rollout_ref.actor.kl_loss_coef (with use_kl_loss)",
                          "learning_rate is actor_rollout_ref.actor.optim.lr",
                          "num_ppo_epochs is actor_rollout_ref.actor.ppo_epochs",
                          "target_kl is Assent's name: none of verl is known for it"]),
        ("assent", "ppo", []),
    ],
)  # fmt: skip
def test_options_of_a_change_and_of_the_text_are_named_as_there(source: str, stage: str, lines: list[str]) -> None:
    text = "raise the rate, or make fewer passes (--num-ppo-epochs), or end a round early (--target-kl 0.05)"
    assert said(finding(text, kl_coef=times(4.0), learning_rate=times(0.3)), source, stage) == lines


def test_options_of_a_command_to_type_in_are_the_commands() -> None:
    text = "look at the rows (assent data show FILE --model MODEL); lower --learning-rate"
    assert options_named(finding(text)) == ["learning_rate"]
    assert options_named(finding("smooth the labels (--hyperparameters.label_smoothing)")) == ["label_smoothing"]


def test_a_change_has_the_other_trainers_name_beside_ours(tmp_path: Path) -> None:
    rows = [{"step": i, "reward": 0.4, "completions/clipped_ratio": 0.97, "frac_reward_zero_std": 0.1}
            for i in range(1, 4)]  # fmt: skip
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    case = case_of_log(tmp_path / "g.jsonl")
    (found,) = [one for one in examine(case).findings if one.rule == "cut_completions"]
    assert "  there: max_new_tokens is max_completion_length" in lines_of_finding(found, case)
    assert not [line for line in lines_of_finding(found, replace(case, source="assent")) if "there: " in line]
    assert their_name("kl_coef", "trl", "grpo") == "beta"
    assert their_name("learning_rate", "trl", "ppo") == "learning_rate"


@pytest.mark.parametrize(
    ("options", "source", "stage", "ours"),
    [
        ({"algorithm": {"use_kl_in_reward": True, "kl_ctrl": {"kl_coef": 0.002}}}, "verl", "ppo", 0.002),
        ({"algorithm.use_kl_in_reward": True, "algorithm.kl_ctrl.kl_coef": 0.002}, "verl", "ppo", 0.002),
        ({"actor_rollout_ref": {"actor": {"use_kl_loss": True, "kl_loss_coef": 0.01}},
          "algorithm": {"use_kl_in_reward": False, "kl_ctrl": {"kl_coef": 0.002}}}, "verl", "grpo", 0.01),
        ({"algorithm": {"use_kl_in_reward": False, "kl_ctrl": {"kl_coef": 0.002}}}, "verl", "ppo", 0.0),
        ({"algorithm": {"kl_ctrl": {"kl_coef": 0.002}}}, "verl", "ppo", None),  # whether it is in use is not told
        ({"algo.kl.init_coef": 0.01}, "openrlhf", "ppo", 0.01),
        ({"init_kl_coef": 0.01}, "openrlhf", "ppo", 0.01),
        ({"loss_fn": {"reference_policy_kl_penalty": 0.03}}, "nemo-rl", "grpo", 0.03),
        ({"beta": 0.04}, "trl", "grpo", 0.04),
        ({"beta": 0.04}, "trl", "dpo", None),
    ],
)  # fmt: skip
def test_the_weight_of_the_penalty_is_read_from_their_options(
    options: dict[str, Any], source: str, stage: str, ours: float | None
) -> None:
    assert our_options(options, stage, source).get("kl_coef") == ours


def test_options_mean_what_they_mean_in_their_stage() -> None:
    assert our_options({"max_epochs": 3}, "ppo", "openrlhf")["num_ppo_epochs"] == 3
    assert our_options({"max_epochs": 3}, "dpo", "openrlhf")["num_train_epochs"] == 3
    assert "warmup_ratio" not in our_options({"warmup_steps": 500}, "dpo", "trl")  # steps there, a share here
    assert our_options({"sync_ref_model": True, "ref_model_sync_steps": 64}, "dpo", "trl")["reference_sync_steps"] == 64
    assert our_options({"sync_ref_model": False, "ref_model_sync_steps": 64}, "dpo", "trl")["reference_sync_steps"] == 0
    assert our_options({"hyperparameters": {"label_smoothing": 0.1}}, "dpo", "trl") == {
        "hyperparameters": {"label_smoothing": 0.1}
    }
