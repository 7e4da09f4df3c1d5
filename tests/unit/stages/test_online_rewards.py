"""Rewards of steps, of several sources and with a potential, through whole commands."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assent.cli import main
from assent.models.loading import load_scorer, load_tokenizer, save_model
from assent.rewards.steps import steps_of
from tests.support.cli import said
from tests.support.rows import read_rows
from tests.support.stages import told, write_inputs

BREVITY = "tests.support.stages:brevity"
SHORT = "{reward: length, maximum: 4, unit: characters, weight: 0.5}"
SHARES = "{reward: 'tests.unit.stages.test_online_rewards:shares', supervision: process}"


def shares(prompts: Sequence[Any], completions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
    """Each line's share of ASCII letters."""
    return [[sum(c.isascii() and c.isalpha() for c in step) / max(1, len(step)) for step in some] for some in steps]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    paths = write_inputs(folder)
    save_model(folder / "prm", load_scorer(paths["model"], seed=3), load_tokenizer(paths["model"]))
    return {**paths, "prm": str(folder / "prm")}


def argv(command: str, inputs: dict[str, str], folder: Path, *rewards: str) -> list[str]:
    given = [command, "--model", inputs["model"], "--data", inputs["prompts"], "--output-dir", str(folder)]
    given += ["--max-length", "64", "--max-new-tokens", "12", "--reward", *rewards]
    if command == "best-of-n":
        return [*given, "--n", "3", "--num-prompts", "2"]
    return [*given, "--total-steps", "1", "--batch-size", "4", "--num-completions", "2"]


@pytest.mark.parametrize("command", ["ppo", "a2c", "grpo"])
def test_rewards_of_steps_train_and_are_written(
    command: str, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process model, or a function beside an outcome rule: the score is the sum of the steps and the rule."""
    source = f"{{reward: {inputs['prm']}, supervision: process}}"
    rewards = [source] if command == "a2c" else [SHARES, SHORT]
    status, _, err = said(argv(command, inputs, tmp_path / "run", *rewards), capsys)
    assert status == 0, err
    samples = read_rows(tmp_path / "run" / "samples.jsonl")
    for row in samples:
        assert len(row["step_rewards"]) == len(steps_of(row["completion"]))
        rest = 0.0 if command == "a2c" else 0.5 * row["rewards"]["length"]
        assert row["score"] == pytest.approx(sum(row["step_rewards"]) + rest, abs=1e-5)
    metrics = next(row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "objective/scores" in row)
    assert ("rewards/shares" in metrics) == (command != "a2c")


def test_credit_depends_on_where_the_steps_rewards_stand(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same scores, at the steps' ends and at the completion's: the critic learns other targets."""
    losses = {}
    for name, reward in {"steps": SHARES, "end": "tests.unit.stages.test_online_rewards:added"}.items():
        status, _, err = said(argv("a2c", inputs, tmp_path / name, reward), capsys)
        assert status == 0, err
        metrics = next(row for row in read_rows(tmp_path / name / "metrics.jsonl") if "objective/scores" in row)
        losses[name] = (metrics["objective/scores"], metrics["critic/loss"])
    assert losses["steps"][0] == pytest.approx(losses["end"][0], abs=1e-6)
    assert losses["steps"][1] != pytest.approx(losses["end"][1], rel=1e-3)


def added(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [sum(some) for some in shares(prompts, completions, [steps_of(text) for text in completions])]


@pytest.mark.parametrize("command", ["ppo", "online-dpo"])
def test_the_rounds_before_a_reward_fails_are_kept(
    command: str,
    inputs: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between two checkpoints, too; and what goes on after them ends as a run that never failed."""
    calls_left = tmp_path / "calls-left"
    monkeypatch.setenv("CALLS_LEFT", str(calls_left))

    def run(name: str, calls: int) -> tuple[int, str]:
        given = argv(command, inputs, tmp_path / name, "tests.unit.stages.test_online_rewards:mortal")
        given[given.index("--total-steps") + 1] = "4"
        calls_left.write_text(str(calls))
        status, _, err = said(given, capsys)
        return status, err

    assert run("whole", 100)[0] == 0
    status, err = run("broken", 2)
    assert status == 3
    assert "the judge is gone" in err
    assert "kept up to step 2" in err
    status, err = run("broken", 100)
    assert status == 0
    assert "resumed after step 2" in err
    rows = [told(tmp_path / name / "metrics.jsonl") for name in ("broken", "whole")]
    for row in (*rows[0], *rows[1]):
        row.pop("cost/flops", None)  # the lost round's sampling is paid for
    assert rows[0] == rows[1]
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("broken", "whole")]
    assert weights[0] == weights[1]


def mortal(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Answers as often as the file $CALLS_LEFT says."""
    file = Path(os.environ["CALLS_LEFT"])
    left = int(file.read_text())
    if not left:
        raise ConnectionError("the judge is gone")
    file.write_text(str(left - 1))
    return [len(set(text)) / 10 for text in completions]


@pytest.mark.parametrize("command", ["online-dpo", "best-of-n"])
def test_several_sources_rank_and_choose_and_stand_in_the_file(
    command: str, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(argv(command, inputs, tmp_path / "run", "tests.support.stages:letters", SHORT), capsys)
    assert status == 0, err
    file = "preferences.jsonl" if command == "online-dpo" else "candidates.jsonl"
    for row in read_rows(tmp_path / "run" / file):
        letters, length = row["rewards"]["letters"], row["rewards"]["length"]
        expected = [a + 0.5 * b for a, b in zip(letters, length, strict=True)]
        assert row["scores"] == pytest.approx(expected)
    metrics = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert any("rewards/letters/std" in row for row in metrics)


def test_a_judge_of_several_sources_scores_policies(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["eval", "--policies.a", inputs["model"], "--baseline", "a", "--data", inputs["prompts"]]
    given += ["--output-dir", str(tmp_path / "out"), "--max-length", "64", "--max-new-tokens", "4"]
    given += ["--num-prompts", "2"]
    status, _, err = said([*given, "--judge", "tests.support.stages:letters", SHORT], capsys)
    assert status == 0, err
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["scorer"] == "letters + length"


def test_a_potential_changes_what_is_learned_and_is_no_part_of_the_score(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    rows = {}
    for name, more in {"shaped": ["--potential", inputs["prm"]], "plain": []}.items():
        assert main([*argv("a2c", inputs, tmp_path / name, BREVITY), *more]) == 0
        rows[name] = next(row for row in read_rows(tmp_path / name / "metrics.jsonl") if "objective/scores" in row)
    shaped, plain = rows["shaped"], rows["plain"]
    assert shaped["objective/scores"] == plain["objective/scores"]  # the first round is the same sample
    assert abs(shaped["critic/loss"] - plain["critic/loss"]) > 1e-4
    assert shaped["cost/models_resident"] == plain["cost/models_resident"] + 1
    facts = json.loads((tmp_path / "shaped" / "run.json").read_text())
    assert "potential_start" in facts["facts"]["start"]


def test_a_potential_that_cannot_be_read_is_refused(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*argv("a2c", inputs, tmp_path / "run", BREVITY), "--potential", inputs["model"]]
    status, _, err = said(given, capsys)
    assert status == 2
    assert "no score head" in err
    assert not (tmp_path / "run").exists()
