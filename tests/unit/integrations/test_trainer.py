"""The Trainer's callback: what a trainer logs is read under our names, a fatal finding stops it, others are said."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from assent.diagnosis.finding import Finding
from assent.integrations.trainer import doctor_callback


@pytest.fixture
def arguments(tmp_path: object) -> SimpleNamespace:
    return SimpleNamespace(beta=0.1, loss_type=["sigmoid"], **vars(TrainingArguments(output_dir=str(tmp_path))))


def test_a_fatal_finding_stops_the_trainer(arguments: SimpleNamespace) -> None:
    found: list[Finding] = []
    callback, control = doctor_callback(report=found.append), TrainerControl()
    for step in range(1, 7):
        state = TrainerState(global_step=step, max_steps=100, is_world_process_zero=True)
        callback.on_log(arguments, state, control, logs={"reward": 0.4, "reward_std": 0.44, "grad_norm": 0.0})
    assert [finding.rule for finding in found] == ["no_gradient"]
    assert control.should_training_stop


def test_without_stop_it_only_reports(arguments: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    callback, control = doctor_callback("grpo", stop=False), TrainerControl()
    for step in range(1, 7):
        state = TrainerState(global_step=step, max_steps=100, is_world_process_zero=True)
        callback.on_log(arguments, state, control, logs={"reward_std": 0.44, "grad_norm": 0.0, "epoch": 0.1 * step})
    assert "FATAL  no_gradient" in capsys.readouterr().err
    assert not control.should_training_stop


def test_a_healthy_run_says_nothing(arguments: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    callback, control = doctor_callback(), TrainerControl()
    for step in range(1, 30):
        state = TrainerState(global_step=step, max_steps=100, is_world_process_zero=True)
        margin = 0.02 * step
        callback.on_log(arguments, state, control, logs={"loss": 0.69 - 0.4 * margin, "rewards/margins": margin,
                                                         "grad_norm": 2.0, "new/figure": 1.0})  # fmt: skip
        callback.on_log(arguments, state, control, logs={"eval_loss": 0.69 - 0.3 * margin})
    assert capsys.readouterr().err == ""
    assert not control.should_training_stop


def test_what_needs_the_whole_run_is_said_when_training_ends(
    arguments: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """No held-out figures: only the end asks rules that look at everything. Each finding is said once."""
    callback, control = doctor_callback("dpo"), TrainerControl()
    state = TrainerState(global_step=0, max_steps=60, is_world_process_zero=True)
    for step in range(1, 61):
        state.global_step = step
        logs = {"loss": 0.6931, "rewards/margins": 0.001 * (-1) ** step, "learning_rate": 1e-9}
        callback.on_log(arguments, state, control, logs={**logs, "grad_norm": float("nan") if step > 50 else 1.0})
    assert capsys.readouterr().err == ""
    callback.on_train_end(arguments, state, control)
    said = capsys.readouterr().err
    assert said.count("FAULT  nothing_learned") == said.count("FATAL  not_finite") == 1
    assert "learning_rate 5e-05 -> " in said  # what the trainer was given, and what to give it


def test_a_figure_that_is_no_number_makes_no_finding_of_a_window(arguments: SimpleNamespace) -> None:
    found: list[Finding] = []
    callback, control = doctor_callback("grpo", report=found.append), TrainerControl()
    for step in range(1, 21):
        state = TrainerState(global_step=step, max_steps=100, is_world_process_zero=True)
        kl = 0.1 if step % 5 else float("nan")
        callback.on_log(arguments, state, control, logs={"objective/kl": kl, "reward": 0.1, "reward_std": 0.4})
    assert not found


def test_beta_of_grpo_is_the_weight_of_its_kl(arguments: SimpleNamespace) -> None:
    callback = doctor_callback()
    state = TrainerState(global_step=1, max_steps=100, is_world_process_zero=True)
    callback.on_log(arguments, state, TrainerControl(), logs={"reward": 0.1, "frac_reward_zero_std": 0.0})
    assert callback.watch.about.config["kl_coef"] == 0.1
