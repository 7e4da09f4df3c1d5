"""`--sampler vllm` in several processes: each has an engine of its own, which samples its share of every round from the
policy's weights of now. The rounds are those of one process. An engine of ours stands in for vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assent.models.templates import CHATML
from tests.support.many_processes import LEARNING_RATE, Group, write_inputs
from tests.support.rows import read_rows
from tests.support.vllm_stand_in import FOLDER

ROUNDS, PROMPTS, COMPLETIONS = 2, 5, 3
SAME = {"loss", "grad_norm", "objective/scores", "rollout/completion_length", "cost/flops"}
ADAPTER = ["--lora-r", "4"]
WAYS = {
    "replicate": ("replicate", []),
    "shard": ("shard", []),
    "shard-adapter": ("shard", ADAPTER),
    "shard-adapter-tokens": ("shard", [*ADAPTER, "--chat-template", "TEMPLATE"]),  # whole embeddings beside the adapter
}
"""They run one after another in the same processes, so that each run closes the engine of the one before it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one and of two processes."""
    at = tmp_path_factory.mktemp("vllm")
    inputs = write_inputs(at)
    template = at / "template.jinja"
    template.write_text(CHATML.replace("<|im_", "<|turn_"), encoding="utf-8")
    common = ["--model", inputs["model"], "--data", inputs["prompts"], "--max-length", "64", "--max-new-tokens", "6"]
    common += ["--batch-size", str(PROMPTS), "--num-completions", str(COMPLETIONS), "--total-steps", str(ROUNDS)]
    common += ["--reward", "tests.support.stages:brevity", "--save-steps", "0"]
    common += ["--learning-rate", str(LEARNING_RATE), "--adam-epsilon", "1e-2", "--lr-scheduler-type", "constant"]
    groups = []
    for number in (1, 2):
        commands = []
        for name, (sharding, more) in WAYS.items():
            own = ["--sampler", "vllm", "--sharding", sharding if number > 1 else "auto", *more]
            words = ["grpo", *common, *own, "--output-dir", str(at / str(number) / name)]
            commands.append([str(template) if word == "TEMPLATE" else word for word in words])
        stand_in = {"PREPARE": "tests.support.vllm_stand_in:install", FOLDER: str(at / f"logs {number}")}
        groups.append(Group(number, at / f"logs {number}", commands, **stand_in))
    for group in groups:
        assert not any(group.ended()), "\n".join(group.said())
    return at


def asked(folder: Path, number: int, rank: int, name: str) -> list[dict[str, Any]]:
    """What the engine of one run and process was asked for, in order."""
    runs: list[list[dict[str, Any]]] = []
    for line in read_rows(folder / f"logs {number}" / f"engine {rank}.jsonl"):
        if line["what"] == "made":
            runs.append([])
        runs[-1].append(line)
    assert len(runs) == len(WAYS), "one engine for each run"
    return runs[list(WAYS).index(name)]


def rounds(folder: Path, number: int, rank: int, name: str) -> list[list[Any]]:
    """The prompts and completions of each round in one process's engine."""
    return [line["rows"] for line in asked(folder, number, rank, name) if line["what"] == "sampled"]


@pytest.mark.parametrize("name", WAYS)
def test_the_rounds_are_those_of_one_process(folder: Path, name: str) -> None:
    found, expected = (read_rows(folder / number / name / "samples.jsonl") for number in "21")
    assert found == expected
    (alone,), both = [rounds(folder, 1, 0, name)], [rounds(folder, 2, rank, name) for rank in (0, 1)]
    assert len(alone) == ROUNDS
    for whole, *shares in zip(alone, *both, strict=True):
        assert len(whole) == PROMPTS * COMPLETIONS
        assert [len(share) for share in shares] == [3 * COMPLETIONS, 2 * COMPLETIONS]
        assert sorted(shares[0] + shares[1]) == sorted(whole)
    for row, other in zip(*(read_rows(folder / n / name / "metrics.jsonl") for n in "21"), strict=True):
        for metric in SAME & other.keys():
            assert row[metric] == pytest.approx(other[metric], rel=1e-4, abs=1e-6), metric


@pytest.mark.parametrize("name", WAYS)
def test_each_process_has_one_engine_that_takes_the_weights_of_each_round(folder: Path, name: str) -> None:
    (alone,), both = [asked(folder, 1, 0, name)], [asked(folder, 2, rank, name) for rank in (0, 1)]
    assert [engine[0]["local_rank"] for engine in both] == [0, 1]
    weights = [[line["fingerprint"] for line in engine if line["what"] == "took weights"] for engine in (alone, *both)]
    assert weights[1] == weights[2], "all engines have the same weights"
    assert len(set(weights[1])) == ROUNDS == len(weights[0])
    assert weights[1][0] == weights[0][0], "and at first those of one process, to the bit"
