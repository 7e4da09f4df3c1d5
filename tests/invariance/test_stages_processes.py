"""Law 2 for whole commands: two processes, as torchrun starts them, end as one does."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.models import tiny_model
from tests.support.rows import read_rows
from tests.support.stages import arguments, ended, run, start, told, write_inputs

LEARNING_RATE = 3e-3
WATCHED = ["--eval-steps", "2", "--metric-for-best-model", "loss", "--eval-prompts", "2", "--eval-max-new-tokens", "4"]


def in_two_processes(argv: list[str], folder: Path, **environment: str) -> tuple[list[int], list[Path]]:
    """`assent ARGV` as torchrun starts it: exit statuses, and the files that hold what each process said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    texts = [folder / "rank 0", folder / "rank 1"]
    started = [
        start(argv, text, environment={**common, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, text in enumerate(texts)
    ]
    return [ended(process, text) for process, text in zip(started, texts, strict=True)], texts


@pytest.mark.parametrize("command", ["dpo", "ppo"])
def test_two_processes_end_as_one_does(command: str, tmp_path: Path) -> None:
    inputs, messages = write_inputs(tmp_path), tmp_path / "messages"
    other = tiny_model(tmp_path / "other", seed=1)  # with the policy itself, the first margins' signs are rounding
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    options = ["--adam-epsilon", "1e-3", "--reference", other, *(WATCHED if command == "dpo" else [])]
    assert run([*arguments(command, inputs, one), *options], messages) == 0, messages.read_text()
    statuses, texts = in_two_processes([*arguments(command, inputs, two), *options], tmp_path)
    assert statuses == [0, 0], [text.read_text() for text in texts]
    assert f"{command}: 5 steps" in texts[0].read_text()
    assert f"{command}: 5 steps" not in texts[1].read_text()  # one outcome, not one for each process

    found, expected = told(two / "metrics.jsonl"), told(one / "metrics.jsonl")
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if not name.startswith("gate/"):
                assert ours[name] == pytest.approx(value, rel=1e-5, abs=2e-5), (theirs["step"], name)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (two, one)]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=0, atol=1e-2 * LEARNING_RATE)
    prints = [json.loads((folder / "run.json").read_text())["facts"]["fingerprints"] for folder in (two, one)]
    assert prints[0]["reference_end"] == prints[1]["reference_end"] if command == "ppo" else True


def test_a_moody_judge_is_asked_once_by_the_main_process(tmp_path: Path) -> None:
    """It answers by chance and writes down who asked: all processes learn from what the main one was told."""
    inputs, asked = write_inputs(tmp_path), tmp_path / "asked.jsonl"
    argv = ["rloo", "--model", inputs["model"], "--data", inputs["prompts"], "--output-dir", str(tmp_path / "run")]
    argv += ["--max-length", "64", "--max-new-tokens", "4", "--batch-size", "2", "--num-completions", "2"]
    argv += ["--reward", "tests.support.stages:moody", "{reward: length, maximum: 2, weight: 0.5}"]
    statuses, texts = in_two_processes([*argv, "--total-steps", "2"], tmp_path, MOODY_JUDGE=str(asked))
    assert statuses == [0, 0], [text.read_text() for text in texts]
    calls = read_rows(asked)
    assert {call["rank"] for call in calls} == {"0"}
    rows = [row for row in told(tmp_path / "run" / "metrics.jsonl") if "objective/scores" in row]
    assert rows[-1]["cost/reward_calls"] == sum(len(call["scores"]) for call in calls) == 8
    for row, call in zip(rows, calls, strict=True):
        assert row["rewards/moody"] == pytest.approx(sum(call["scores"]) / 4)


def test_a_judge_that_fails_ends_every_process(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    argv = arguments("ppo", inputs, tmp_path / "run")
    argv[argv.index("tests.support.stages:brevity")] = "tests.support.stages:moody"  # which finds no file to write to
    statuses, texts = in_two_processes(argv, tmp_path)
    assert statuses == [3, 3]
    assert all("moody raised KeyError" in text.read_text() for text in texts)
