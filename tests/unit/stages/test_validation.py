"""Held-out data during training: what is measured and when, which weights are kept, when a run stops."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assent.config.loading import parse_options
from assent.config.stages import KtoConfig, PreferenceConfig, RewardConfig, SftConfig
from assent.data.splitting import conversation_root
from assent.engine.checkpoint import damage
from assent.errors import ConfigError, DataError
from assent.metrics import lookup
from assent.runs.files import from_json, to_json
from assent.stages import kto, preference, reward, sft
from assent.stages.run_models import RunModels
from assent.stages.session import Session
from assent.stages.validation import Validation, check_overlap
from assent.types import PromptGroup
from tests.support.rows import comparison, group, read_rows, turns
from tests.support.stages import told, write_inputs

STAGES: dict[str, tuple[Any, Any]] = {
    "sft": (SftConfig, sft),
    "reward": (RewardConfig, reward),
    "dpo": (PreferenceConfig, preference),
    "kto": (KtoConfig, kto),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def given(command: str, inputs: Mapping[str, str], out: Path, **options: Any) -> Any:
    rows = "demonstrations" if command == "sft" else "comparisons"
    common = {"model": inputs["model"], "data": inputs[rows], "eval_data": inputs[f"held_out_{rows}"], "device": "cpu"}
    common |= {"output_dir": str(out), "max_length": 64, "batch_size": 4, "learning_rate": 3e-3, "max_steps": 7}
    if command == "kto":
        common["split_comparisons"] = True
    if command in ("dpo", "kto"):
        common["reference_cache"] = str(out.parent / "cache")
    chosen = {name: value for name, value in (common | options).items() if value is not None}
    return parse_options(STAGES[command][0], chosen)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def held_out_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in told(folder / "metrics.jsonl") if "eval_loss" in row]


# When to stop and what is best, by hand


def course(values: Sequence[float], *, metric: str = "loss", **options: Any) -> tuple[list[bool], Validation, int]:
    """Which measurements were the best so far, until the run has to stop; and after how many."""
    config = SftConfig.model_construct(
        metric_for_best_model=metric,
        early_stopping_patience=options.get("patience"),
        early_stopping_threshold=options.get("threshold", 0.0),
    )
    validation = Validation(config, log=None)  # type: ignore[arg-type]
    best: list[bool] = []
    for step, value in enumerate(values, start=1):
        best.append(validation.take(step, {f"eval_{metric.removeprefix('eval_')}": value}))
        validation.state = from_json(to_json(validation.state))  # as a resumed run would have it
        if validation.has_to_stop:
            break
    return best, validation, len(best)


def test_a_figure_that_counts_nothing_is_no_improvement() -> None:
    _, validation, _ = course([0.5], metric="accuracy", patience=1)
    assert not validation.take(2, {"eval_loss": 1.0})
    assert validation.has_to_stop
    assert validation.state["best"]["step"] == 1


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("loss", [3.0, 2.0, 2.0, 2.5, 1.0], [True, True, False, False, True]),
        ("eval_loss", [3.0, 4.0], [True, False]),
        ("accuracy", [0.5, 0.4, 0.6, 0.6], [True, False, True, False]),  # more is better
        ("loss", [float("nan"), 2.0, float("nan"), float("-inf"), 1.0], [False, True, False, False, True]),
    ],
)
def test_the_best_is_the_first_of_the_best_in_the_metrics_own_direction(
    metric: str, values: list[float], best: list[bool]
) -> None:
    found, validation, _ = course(values, metric=metric)
    assert found == best
    assert validation.best_step == max(step for step, is_best in enumerate(best, start=1) if is_best)


@pytest.mark.parametrize(
    ("values", "options", "stops_after"),
    [
        ([3.0, 2.0, 2.1, 1.9, 2.0, 2.0, 2.0, 2.0], {"patience": 3}, 7),
        ([3.0, 2.0, 2.1, 2.2], {"patience": 1}, 3),
        ([3.0, 2.0, 2.1, 1.9, 2.0, 2.0, 2.0, 2.0], {}, 8),
        ([3.0, 2.9, 2.8, 2.7], {"patience": 2, "threshold": 0.25}, 3),
        ([3.0, 2.9, 2.7, 2.6, 2.4, 2.3], {"patience": 2, "threshold": 0.25}, 6),  # small gains that add up count
        ([float("nan")] * 4, {"patience": 2}, 2),
    ],
)
def test_patience_counts_measurements_without_an_improvement(
    values: list[float], options: dict[str, Any], stops_after: int
) -> None:
    _, _, number = course(values, **options)
    assert number == stops_after


# Options


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("sft", {"eval_data": None, "eval_steps": 2}, "eval_steps has no effect without held-out data"),
    ("dpo", {"eval_data": None, "eval_prompts": 2}, "eval_prompts has no effect without held-out data"),
    ("sft", {"eval_fraction": 0.1}, "give one of them"),
    ("sft", {"metric_for_best_model": "loss"}, "one checkpoint to choose from"),
    ("dpo", {"metric_for_best_model": "accuracy", "eval_steps": 1}, "rewards/accuracies"),
    ("reward", {"early_stopping_patience": 1, "eval_steps": 1}, "needs metric_for_best_model"),
    ("reward", {"early_stopping_threshold": 0.1}, "no effect without early_stopping_patience"),
    ("dpo", {"eval_max_new_tokens": 4}, "no effect without eval_prompts"),
    ("sft", {"eval_prompts": 1}, "leaves no room for a prompt within max_length"),
    ("reward", {"eval_prompts": 1}, "unknown option: eval_prompts"),
]


@pytest.mark.parametrize(("command", "options", "message"), REFUSED)
def test_options_without_effect_are_refused(
    command: str, options: dict[str, Any], message: str, inputs: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        given(command, inputs, tmp_path / "run", **options)


# Rows in both


def test_a_prompt_in_both_is_an_error_that_names_rows_and_a_way_out() -> None:
    train, held_out = [comparison(i) for i in range(3)], [comparison(i) for i in (2, 7)]
    with pytest.raises(DataError, match="are in the training data too") as caught:
        check_overlap(train, held_out)
    assert "1 of 2 held-out rows: rows.jsonl:3 is rows.jsonl:3" in str(caught.value)
    assert "assent data split" in str(caught.value)
    assert check_overlap(train, held_out[1:]) == []


def test_a_shared_root_is_told() -> None:
    further = PromptGroup(prompt=(*group(1).prompt, *turns(("assistant", "yes"), ("user", "and?"))), source="x:1")
    (line,) = check_overlap([comparison(1)], [further, comparison(5)])
    assert "1 of 2 held-out rows share their first user turn with training rows" in line


@pytest.mark.parametrize("command", STAGES)
def test_a_run_on_its_own_training_rows_is_refused_and_nothing_is_written(
    command: str, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = given(command, inputs, tmp_path / "run")
    config = config.model_copy(update={"eval_data": config.data})
    monkeypatch.setattr(RunModels, "add_learner", None)  # no weights are loaded
    with pytest.raises(DataError, match="20 of 20" if command == "kto" else "10 of 10"):
        STAGES[command][1].train(config)
    assert not (tmp_path / "run").exists()


def test_a_fraction_is_held_out_by_conversation(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = given("sft", inputs, tmp_path / "run", eval_data=None, eval_fraction=0.3, max_steps=1)
    seen: dict[str, list[str]] = {}

    def note(self: RunModels, *_: Any, **__: Any) -> None:
        for name, part in self.data.parts.items():
            seen[name] = [conversation_root(row.prompt) for row in part.groups]
        raise KeyboardInterrupt

    monkeypatch.setattr(RunModels, "add_learner", note)
    with pytest.raises(KeyboardInterrupt):
        sft.train(config)
    assert (len(seen["train"]), len(seen["eval"])) == (7, 3)
    assert not set(seen["train"]) & set(seen["eval"])


# Whole runs


def choosable(command: str, inputs: Mapping[str, str], folder: Path) -> list[str]:
    """The figures that this command accepts as the metric for the best model."""
    found = []
    for name in STAGES[command][0].MEASURED:
        with contextlib.suppress(ConfigError):
            given(command, inputs, folder, eval_steps=1, metric_for_best_model=name)
            found.append(name)
    return found


@pytest.mark.parametrize("command", STAGES)
def test_held_out_data_is_measured_from_before_the_first_step_to_after_the_last(
    command: str, inputs: dict[str, str], tmp_path: Path
) -> None:
    config = given(command, inputs, tmp_path / "run", eval_steps=3)
    result = STAGES[command][1].train(config)
    rows = held_out_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [0, 3, 6, 7]
    measured = choosable(command, inputs, tmp_path)
    assert len(measured) == {"sft": 1, "kto": 1}.get(command, 3)
    for name in measured:  # what a checkpoint may be chosen by is there, and has a direction
        assert f"eval_{name}" in rows[0]
        assert lookup(name).direction != "none"
        assert result.metrics[f"eval_{name}"] == rows[-1][f"eval_{name}"]
    for name in set(measured) - {"loss"}:
        assert all(row[f"eval_{name}_low"] <= row[f"eval_{name}"] <= row[f"eval_{name}_high"] for row in rows)
    plain = given(command, inputs, tmp_path / "plain", eval_data=None)
    STAGES[command][1].train(plain)
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")


def scripted(monkeypatch: pytest.MonkeyPatch, losses: Sequence[float]) -> None:
    """Held-out losses by the number of updates."""

    def measured(learner: Any, *_: Any, **__: Any) -> dict[str, float]:
        return {"eval_loss": losses[learner.step]}

    monkeypatch.setattr(sft, "held_out_metrics", measured)


LOSSES = [9.0, 3.0, 2.0, 1.5, 1.7, 1.6, 1.8, 1.9]
"""Best after step 3; with a patience of 3 the run stops after step 6."""
STOPPING = {"eval_steps": 1, "metric_for_best_model": "loss", "early_stopping_patience": 3}


def test_the_best_checkpoint_is_kept_and_becomes_the_result_and_the_run_stops_early(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, LOSSES)
    result = sft.train(given("sft", inputs, tmp_path / "run", save_steps=1, **STOPPING))
    assert result.steps == 6
    assert result.metrics["eval_loss"] == 1.5
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-3", "step-4", "step-5"]  # two newest and the best
    assert damage(tmp_path / "run" / "checkpoints" / "step-3") is None
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["facts"]["best"] == {"step": 3, "metric": "eval_loss", "value": 1.5}
    assert any("stopped after step 6" in note and "1.5 at step 3" in note for note in manifest["notes"])
    # The weights are those after three steps of the same schedule, not the last.
    best, last = (from_checkpoint(tmp_path / "run", step) for step in (3, 5))
    assert best.keys() == last.keys()
    saved = from_file(tmp_path / "run" / "model" / "model.safetensors")
    for name, value in saved.items():
        assert torch.equal(best[matching(name, best)], value), name
    assert any(not torch.equal(best[name], last[name]) for name in best)


@pytest.mark.parametrize("kill", [None, ("checkpoint", 1)])
def test_where_training_makes_nothing_better_the_start_is_the_result(
    kill: tuple[str, int] | None, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = given("sft", inputs, tmp_path / "run", eval_steps=1, metric_for_best_model="loss", max_steps=3)
    if kill is not None:
        with pytest.MonkeyPatch.context() as patched:
            scripted(patched, [1.0, 3.0, 2.0, 4.0])
            kill_after(patched, *kill)
            with pytest.raises(KilledError):
                sft.train(config)
    scripted(monkeypatch, [1.0, 3.0, 2.0, 4.0])
    result = sft.train(config)
    assert (result.steps, result.metrics["eval_loss"]) == (3, 1.0)
    start, end = (from_file(folder / "model.safetensors") for folder in (Path(inputs["model"]), result.model_path))
    assert start.keys() == end.keys()
    assert all(torch.equal(start[name], value) for name, value in end.items())
    assert [row["eval_loss"] for row in told(tmp_path / "run" / "metrics.jsonl") if "eval_loss" in row] == [
        *[1.0, 3.0, 2.0, 4.0]
    ]
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert any("that the run began with: training made none better" in note for note in manifest["notes"])


def from_file(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def from_checkpoint(run: Path, step: int) -> dict[str, torch.Tensor]:
    return from_file(run / "checkpoints" / f"step-{step}" / "model" / "model.safetensors")


def matching(name: str, stored: Mapping[str, Any]) -> str:
    """A learner's checkpoint names its weights from the wrapping module on."""
    return next(key for key in stored if key.endswith(name))


class KilledError(Exception):
    pass


def kill_after(monkeypatch: pytest.MonkeyPatch, place: str, number: int) -> None:
    """The run ends, with nothing said or saved, at the `number`-th call of Session's or Validation's method `place`."""
    owner = Session if hasattr(Session, place) else Validation
    method, calls = getattr(owner, place), 0

    def deadly(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        result = method(self, *arguments, **options)
        calls += 1
        if calls == number:
            raise KilledError
        return result

    monkeypatch.setattr(owner, place, deadly)


SAMPLING = {**STOPPING, "eval_prompts": 3, "eval_max_new_tokens": 5, "save_steps": 2}
KILLS = [("log_step", 1), ("take", 3), ("checkpoint", 3), ("take", 6), ("_choose", 1)]


@pytest.fixture(scope="module")
def whole(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that nobody kills."""
    with pytest.MonkeyPatch.context() as patched:
        scripted(patched, LOSSES)
        return sft.train(given("sft", inputs, tmp_path_factory.mktemp("whole") / "run", **SAMPLING))


@pytest.mark.parametrize(("place", "number"), KILLS)
def test_a_killed_run_keeps_the_same_best_and_stops_at_the_same_step(
    place: str, number: int, whole: Any, inputs: dict[str, str], tmp_path: Path
) -> None:
    config = given("sft", inputs, tmp_path / "run", **SAMPLING)
    with pytest.MonkeyPatch.context() as patched:
        scripted(patched, LOSSES)
        kill_after(patched, place, number)
        with pytest.raises(KilledError):
            sft.train(config)
    with pytest.MonkeyPatch.context() as patched:
        scripted(patched, LOSSES)
        resumed = sft.train(config)
    folders = (whole.output_dir, resumed.output_dir)
    assert len({weights(folder) for folder in folders}) == 1
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert told(folders[0] / name) == told(folders[1] / name), name
    assert resumed.steps == whole.steps == 6
    machine = ("perf/", "cost/seconds", "cost/peak", "cost/planned")
    assert {k for k, v in whole.metrics.items() if not k.startswith(machine) and resumed.metrics[k] != v} == set()
    found = [json.loads((folder / "run.json").read_text())["facts"]["best"] for folder in folders]
    assert found[0] == found[1]


def test_answers_show_how_far_the_policy_is_from_its_start_and_leave_training_alone(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    options = {"eval_steps": 4, "eval_prompts": 4, "eval_max_new_tokens": 6}
    result = preference.train(given("dpo", inputs, tmp_path / "run", **options))
    rows = held_out_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [0, 4, 7]
    assert abs(rows[0]["eval_kl"]) < 1e-4
    assert rows[-1]["eval_kl_k3"] > 1e-3
    assert rows[-1]["eval_kl_low"] <= rows[-1]["eval_kl"] <= rows[-1]["eval_kl_high"]
    assert 1 <= rows[-1]["eval_rollout/completion_length"] <= 6
    assert result.metrics["cost/models_resident"] == 2
    assert result.metrics["cost/completions_sampled"] == 12
    samples = read_rows(tmp_path / "run" / "samples.jsonl")
    assert [row["step"] for row in samples] == [0] * 4 + [4] * 4 + [7] * 4
    asked = [[row["prompt"] for row in samples if row["step"] == step] for step in (0, 4, 7)]
    assert asked[0] == asked[1] == asked[2]
    assert len({json.dumps(prompt) for prompt in asked[0]}) == 4
    last = [row["kl"] for row in samples if row["step"] == 7]
    assert np.mean(last) == pytest.approx(rows[-1]["eval_kl"])
    preference.train(given("dpo", inputs, tmp_path / "plain", eval_data=None))
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")
    page = preference_report(tmp_path / "run")
    assert "Logged at step 7" in page
    assert "KL to the reference" in page


def preference_report(folder: Path) -> str:
    from assent.reporting import write_report

    return write_report(folder).read_text(encoding="utf-8")


def test_held_out_prompts_must_leave_room_for_an_answer(inputs: dict[str, str], tmp_path: Path) -> None:
    tight = given("sft", inputs, tmp_path / "run", eval_prompts=1, eval_max_new_tokens=62)
    with pytest.raises(DataError, match="no held-out prompt leaves room for an answer"):
        sft.train(tight)
    assert not (tmp_path / "run").exists()
