"""`--sampler vllm` through the commands: what it samples and trains is what the torch sampler gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assent.rollouts import vllm_engine
from tests.support.cli import files_in, said
from tests.support.models import tiny_model
from tests.support.rows import comparisons, demonstrations, read_rows

has_vllm = pytest.mark.skipif(not vllm_engine.is_installed(), reason="vLLM is not installed (extra vllm)")
LETTERS = "tests.support.stages:letters"
ONLINE = ["--total-steps", 2, "--batch-size", 2, "--num-completions", 2, "--learning-rate", 1e-2]
COMMANDS: dict[str, list[object]] = {
    "grpo": ["--reward", LETTERS, *ONLINE],
    "online-dpo": ["--reward", LETTERS, *ONLINE],
    "sample": ["--num-completions", 2],
    "best-of-n": ["--reward", LETTERS, "--n", 3],
    "best-of-n by blocks": ["--reward", LETTERS, "--n", 3, "--block-size", 3],
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    demonstrations(folder / "demonstrations.jsonl")
    comparisons(folder / "prompts.jsonl", count=4)
    tiny_model(folder / "model", hidden_size=64)
    return folder


def argv(command: str, shared: Path, *more: object) -> list[object]:
    common = ["--model", shared / "model", "--data", shared / "prompts.jsonl", "--max-length", 64, "--device", "cpu"]
    return [command.split(maxsplit=1)[0], *common, "--max-new-tokens", 6, *COMMANDS[command], *more]


@pytest.mark.parametrize("command", [*COMMANDS, "eval"])
def test_without_vllm_it_is_refused_before_anything_is_written(
    command: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    given = ["--sampler", "vllm", "--output-dir", tmp_path / "out"]
    if command == "eval":
        policies = ["--policies.a", shared / "model", "--baseline", "a", "--judge", LETTERS]
        words: list[object] = ["eval", "--data", shared / "prompts.jsonl", *policies, *given]
    else:
        words = argv(command, shared, *given)
    status, out, err = said(words, capsys)
    assert (status, out) == (2, "")
    assert "vLLM is not installed" in err
    assert not files_in(tmp_path)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--sampler", "vllm", "--lora-r", 2, "--load-in-4bit"], "4-bit"),
        (["--sampler", "sglang"], "vllm"),
    ],
)
def test_what_cannot_be_sampled_so(
    more: list[object], told: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", shared / "model", "--data", shared / "prompts.jsonl", "--reward", LETTERS]
    status, _, err = said(["grpo", *options, "--output-dir", tmp_path / "out", *more], capsys)
    assert status == 2
    assert told in err
    assert not files_in(tmp_path)


def test_two_models_are_not_mixed_in_one_engine() -> None:
    from assent.config.completions import SampleConfig

    given: dict[str, Any] = {"model": "a", "data": "p", "output_dir": "o", "reference": "b", "realignment": 0.5}
    assert SampleConfig(**given).sampler == "torch"
    with pytest.raises(ValueError, match="realignment mixes two models"):
        SampleConfig(**given, sampler="vllm")


@has_vllm
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_gives_what_it_gives_with_the_torch_sampler(
    command: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = {}
    for sampler in ("torch", "vllm"):
        words = argv(command, shared, "--sampler", sampler, "--output-dir", tmp_path / sampler, "--json")
        status, out, err = said(words, capsys)
        assert status == 0, err
        written[sampler] = json.loads(out)
    if command.startswith(("sample", "best-of-n")):
        mine, theirs = (read_rows(tmp_path / sampler / "completions.jsonl") for sampler in written)
        for row in (*mine, *theirs):
            row["logprob"] = round(row["logprob"], 3)
        assert mine == theirs
        return
    figures = ("objective/scores", "grad_norm", "rollout/completion_length", "cost/flops")
    for mine, theirs in zip(*(read_rows(tmp_path / sampler / "metrics.jsonl") for sampler in written), strict=True):
        for name in figures:
            assert (name in mine) == (name in theirs)
            assert mine.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), rel=1e-3, abs=1e-6), name
        if "cost/models_resident" in mine:
            assert theirs["cost/models_resident"] == mine["cost/models_resident"] + 1, "the engine's copy"


@has_vllm
def test_an_adapters_policy_is_what_the_engine_samples_from(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second round's rollouts are the updated policy's: as the torch sampler's, and unlike the first policy's."""
    scores = {}
    for sampler in ("torch", "vllm"):
        more = ["--lora-r", 4, "--sampler", sampler, "--output-dir", tmp_path / sampler, "--seed", 3]
        status, _, err = said(argv("grpo", shared, *more), capsys)
        assert status == 0, err
        rows = read_rows(tmp_path / sampler / "metrics.jsonl")
        scores[sampler] = [(row["objective/scores"], row["objective/kl"]) for row in rows if "objective/scores" in row]
    assert scores["vllm"] == [pytest.approx(pair, rel=1e-3, abs=1e-5) for pair in scores["torch"]]
    assert abs(scores["vllm"][1][1]) > 1e-4, "the policy has moved, so its second rollouts have a KL"
