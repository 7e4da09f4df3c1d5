"""Faults change a run's log as they say, name rules that there are, and what is found of them is counted rightly."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assent.diagnosis.case import Case
from assent.diagnosis.examine import examine
from assent.diagnosis.rules import all_rules
from assent.sandbox.faults import tasks
from assent.sandbox.faults.confusion import Seen, confusion, interval, lower_ends
from assent.sandbox.faults.models import model_folder
from assent.sandbox.faults.records import Planned, case_of, outcome, plan_healthy, record_of
from assent.sandbox.faults.registry import FAULTS, PAIRS
from assent.sandbox.faults.running import perform
from assent.sandbox.faults.settings import STAGES, Setting, healthy


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    model_folder(root, "polite", steps=40)
    return root


def _shortened(setting: Setting) -> Setting:
    """Few steps: the fault is seen in them, though not yet by a rule that wants more."""
    setting.rows = setting.rows[:200]
    if "total_steps" in setting.options:
        setting.options |= {"total_steps": 4, "batch_size": 4, "num_completions": 2}
    else:
        setting.options |= {"max_steps": 12, "eval_steps": 0}
    return setting


def _case(models: Path, name: str) -> Case:
    fault = FAULTS[name]
    setting = healthy(fault.stage, "polite", 0, models=models)
    fault.inject(setting, 1.0)
    record = perform(_shortened(setting))
    assert record["error"] is None
    return case_of(record)


def _values(case: Case, name: str) -> tuple[float, ...]:
    return tuple(case[name].values)


SYMPTOMS: dict[str, Callable[[Case], bool]] = {
    "dpo-rate-zero": lambda case: not any(_values(case, "learning_rate")) and case.option("learning_rate") == 0,
    "dpo-frozen": lambda case: not any(_values(case, "grad_norm")),
    "dpo-masked": lambda case: not any(_values(case, "logps/chosen")),
    "dpo-no-reference": lambda case: abs(_values(case, "rewards/chosen")[0]) > 0.1,
    "dpo-reference-moves": lambda case: max(map(abs, _values(case, "rewards/chosen"))) < 1e-6,
    "dpo-reference-wrong": lambda case: _values(case, "rewards/chosen")[0] > 0.1 and not case.option("reference"),
    "dpo-sign": lambda case: _values(case, "rewards/margins")[-1] < 0,
    "dpo-swapped": lambda case: case["eval_rewards/accuracies"].last < 0.5 < case["rewards/accuracies"].last,
    "dpo-not-finite": lambda case: bool(case.not_finite["grad_norm"]),
    "kto-one-class": lambda case: "rewards/rejected" not in case.series or len(case["rewards/rejected"]) < 12,
    "reward-off-centre": lambda case: min(_values(case, "mean_reward")) > 20,
    "reward-two-writers": lambda case: case.rewinds >= 3,
    "ppo-reference-moves": lambda case: max(map(abs, _values(case, "objective/kl_k3"))) < 1e-6,
    "ppo-scores-whitened": lambda case: max(map(abs, _values(case, "objective/scores"))) < 1e-5,
    "ppo-logprobs-noisy": lambda case: min(_values(case, "rollout/logprob_mismatch")) > 0.1,
    "grpo-reward-constant": lambda case: not any(_values(case, "objective/scores_std")),
    "grpo-cut": lambda case: max(_values(case, "rollout/completion_length")) <= 2,
}
"""What a log shows of the fault after a few steps, whatever the rules make of it."""


@pytest.mark.parametrize("name", SYMPTOMS)
def test_the_fault_is_in_the_log_and_not_in_a_healthy_one(models: Path, name: str) -> None:
    assert SYMPTOMS[name](_case(models, name))


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_a_healthy_run_has_none_of_these_symptoms(models: Path, stage: str) -> None:
    record = perform(_shortened(healthy(stage, "polite", 0, models=models)))
    case = case_of(record)
    assert record["error"] is None
    assert not record["gate"]
    assert not any(_has(symptom, case) for name, symptom in SYMPTOMS.items() if FAULTS[name].stage == stage)
    assert outcome(record) is not None


def _has(symptom: Callable[[Case], bool], case: Case) -> bool:
    try:
        return symptom(case)
    except KeyError:
        return False


def test_the_gate_would_have_stopped_a_run_without_its_reference(models: Path) -> None:
    setting = healthy("dpo", "polite", 0, models=models)
    FAULTS["dpo-no-reference"].inject(setting, 1.0)
    assert perform(_shortened(setting))["gate"]


def test_a_plain_fault_is_found_from_its_record(models: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(models)
    planned = Planned("dpo", ("dpo-frozen",), "calibration", 0)
    record = record_of(planned, tmp_path)
    assert record is not None
    assert "no_gradient" in {finding.rule for finding in examine(case_of(record)).findings}
    assert record_of(planned, tmp_path, make=False) == record  # kept, and not made again
    assert record_of(Planned("dpo", ("dpo-frozen",), "calibration", 1), tmp_path, make=False) is None


def test_faults_name_rules_that_there_are() -> None:
    known = {rule.name: rule for rule in all_rules()}
    for fault in FAULTS.values():
        assert fault.stage in STAGES
        assert {*fault.rules, *fault.also} <= set(known), fault.name
        assert any(fault.stage in known[rule].stages for rule in fault.rules), fault.name
    assert all(fault in FAULTS for pair in PAIRS for fault in pair)
    assert all(FAULTS[first].stage == FAULTS[second].stage for first, second in PAIRS)


def test_seeds_and_tasks_of_calibration_and_report_are_apart() -> None:
    plans = {purpose: [*plan_healthy(purpose, 64)] for purpose in ("calibration", "report")}  # type: ignore[arg-type]
    assert not {one.seed for one in plans["calibration"]} & {one.seed for one in plans["report"]}
    assert tasks.HELD_OUT not in {one.family for one in plans["calibration"]}
    assert tasks.HELD_OUT in {one.family for one in plans["report"]}


def test_held_out_prompts_are_never_among_the_others() -> None:
    train = {group.prompt for group in tasks.prompts("polite", 300, seed=1)}
    assert not train & {group.prompt for group in tasks.prompts("polite", 100, seed=2, held_out=True)}


def test_a_strength_of_zero_leaves_the_learning_rate_as_it_was(models: Path) -> None:
    plain, faded = (healthy("dpo", "polite", 3, models=models) for _ in range(2))
    FAULTS["dpo-rate-high"].inject(faded, 0.0)
    assert faded.options["learning_rate"] == plain.options["learning_rate"]


def test_counts_of_a_confusion_by_hand() -> None:
    runs = [
        Seen((), "dpo", ()),
        Seen((), "dpo", ("saturated",)),
        Seen((), "ppo", ()),
        Seen(("dpo-frozen",), "dpo", ("no_gradient", "nothing_learned"), "no_gradient"),
        Seen(("dpo-frozen",), "dpo", ("saturated", "no_gradient"), "saturated"),
        Seen(("dpo-frozen",), "dpo", ()),
    ]
    counted = confusion(runs)
    assert counted.detected == {"dpo-frozen": (2, 3)}
    assert counted.first["dpo-frozen"] == 1
    assert counted.named == {"saturated": (0, 2), "no_gradient": (2, 2), "nothing_learned": (1, 1)}
    assert counted.alarms == {"dpo": (1, 2), "ppo": (0, 1)}
    assert counted.mistaken["dpo-frozen"] == {"saturated": 1}
    found: dict[str, Any] = counted.as_dict()
    assert found["macro_recall"] == pytest.approx(2 / 3)
    assert found["macro_precision"] == pytest.approx((0 + 1 + 1) / 3)
    assert found["findings_true"]["right"] == 3
    assert found["findings_true"]["of"] == 5
    assert found["false_alarms"]["share"] == pytest.approx(1 / 3)


def test_two_faults_count_for_both() -> None:
    counted = confusion([Seen(("ppo-reward-hacked", "ppo-critic-shuffled"), "ppo", ("critic_useless",))])
    assert counted.detected == {"ppo-reward-hacked": (0, 1), "ppo-critic-shuffled": (1, 1)}
    assert counted.named == {"critic_useless": (1, 1)}


def test_wilsons_interval_by_hand() -> None:
    z = 1.959964
    found = interval(30, 30)
    assert found["share"] == 1
    assert found["low"] == pytest.approx(30 / (30 + z * z), abs=1e-6)  # failures, §3: 30 of 30 prove only .886
    assert interval(0, 300)["high"] == pytest.approx(z * z / (300 + z * z), abs=1e-6)
    assert interval(0, 0)["share"] is None


def test_the_lower_end_of_one_more_run_by_hand() -> None:
    """Two tasks of a stage share their spread: squares of 2 and 0.5 over two degrees of freedom, t(0.95; 2) = 2.92."""
    cells = {("dpo", "polite"): [1.0, 3.0], ("dpo", "brief"): [5.0, 6.0], ("ppo", "brief"): [7.0]}
    found = lower_ends(cells)
    reach = 2.919986 * math.sqrt(2.5 / 2 * 1.5)
    assert found == {("dpo", "polite"): pytest.approx(2 - reach), ("dpo", "brief"): pytest.approx(5.5 - reach)}


def test_a_twentieth_of_healthy_runs_lies_below_the_lower_end() -> None:
    rng = random.Random(0)
    below = 0
    for _ in range(2000):
        drawn = [[rng.gauss(mean, 2.0) for _ in range(3)] for mean in (0.0, 9.0)]
        cells = {("dpo", str(task)): values[:2] for task, values in enumerate(drawn)}
        below += drawn[0][2] < lower_ends(cells)["dpo", "0"]
    assert below / 2000 == pytest.approx(0.05, abs=0.015)
