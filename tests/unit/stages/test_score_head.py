"""Reward models and critics of an architecture without a class for sequence classification, through every command."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from assent.models.folder_contents import SCORE_HEAD
from assent.models.loading import load_tokenizer, save_model
from assent.rewards.reward_model import RewardModel
from tests.support.causal_only import causal_only
from tests.support.cli import said
from tests.support.rows import read_rows
from tests.support.stages import Fault, arguments, run, told, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`model` is an OLMoE; `reward` is a reward model of three heads on it, `adapters` an ensemble of two adapters."""
    folder = tmp_path_factory.mktemp("inputs")
    found = write_inputs(folder)
    tokenizer = load_tokenizer(found["model"])
    ends = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model = causal_only("olmoe", vocab_size=len(tokenizer), **{**ends, "max_position_embeddings": 128})
    found["model"] = str(save_model(folder / "olmoe", model, tokenizer))
    for name, more in (("reward", ["--num-heads", "3"]), ("adapters", ["--num-adapters", "2", "--lora-r", "2"])):
        argv = [*arguments("reward", found, folder / name), *more, "--normalize-rewards"]
        assert run(argv, folder / "messages") == 0, (folder / "messages").read_text()
        found[name] = str(folder / name / "model")
    return found


def ppo(inputs: dict[str, str], folder: Path, reward: str, *more: str) -> list[str]:
    argv = arguments("ppo", inputs, folder)
    argv[argv.index("--reward") + 1] = reward
    return [*argv, *more]


def test_a_killed_run_ends_as_one_that_never_was(inputs: dict[str, str], tmp_path: Path) -> None:
    whole, broken, messages = Path(inputs["reward"]).parent, tmp_path / "broken", tmp_path / "messages"
    argv = [*arguments("reward", inputs, broken), "--num-heads", "3", "--normalize-rewards"]
    assert run(argv, messages, Fault(after=3, number=signal.SIGKILL)) == -signal.SIGKILL
    assert run(argv, messages) == 0, messages.read_text()
    assert "resumed after step 2" in messages.read_text()
    assert told(broken / "metrics.jsonl") == told(whole / "metrics.jsonl")
    for name in ("model.safetensors", SCORE_HEAD):
        assert (broken / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    before, after = (load_file(Path(path) / "model.safetensors") for path in (inputs["model"], inputs["reward"]))
    assert torch.equal(before["lm_head.weight"], after["lm_head.weight"])  # nothing reads it
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


def test_the_card_says_how_such_a_folder_is_read(inputs: dict[str, str]) -> None:
    for name in ("reward", "adapters"):
        text = (Path(inputs[name]) / "README.md").read_text()
        assert f"`{SCORE_HEAD}`" in text
        assert "AutoModelForCausalLM` opens the folder" in text
        snippet = text.split("```python\n")[1].split("```")[0].replace('"."', repr(inputs[name]))
        given: dict[str, Any] = {}
        exec(snippet, given)
        assert given["scores"] == RewardModel(inputs[name]).score(["a prompt"], ["a completion"])


@pytest.mark.parametrize(
    ("reward", "more"),
    [
        ("reward", ["--reward-ensemble", "min"]),
        ("adapters", ["--trunk", "one", "--lora-r", "2"]),
    ],
)
def test_ppo_trains_a_critic_of_such_an_architecture(
    reward: str, more: list[str], inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(ppo(inputs, tmp_path / "run", inputs[reward], *more), capsys)
    assert status == 0, err
    rows = [row for row in told(tmp_path / "run" / "metrics.jsonl") if "objective/kl" in row]
    assert rows[-1]["critic/val/error"] < rows[0]["critic/val/error"]


def test_every_command_that_scores_reads_such_a_folder(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = f"{inputs['adapters']}/member-2"
    assert said(["merge", member, "--output-dir", tmp_path / "merged"], capsys)[0] == 0
    short = ["--data", inputs["prompts"], "--max-length", 64, "--max-new-tokens", 6]
    for name, reward in (("best-adapter", member), ("best-merged", tmp_path / "merged")):
        argv = ["best-of-n", "--model", inputs["model"], "--reward", reward, "--n", 2, *short]
        status, _, err = said([*argv, "--output-dir", tmp_path / name], capsys)
        assert status == 0, err
    for reward in (inputs["reward"], inputs["adapters"]):
        argv = ["eval", "--reward-model", reward, "--data", inputs["held_out_comparisons"], "--max-length", 64]
        status, out, err = said([*argv, "--json"], capsys)
        assert status == 0, err
    rows = [read_rows(tmp_path / name / "candidates.jsonl") for name in ("best-adapter", "best-merged")]
    assert [row["scores"] for row in rows[0]] == [pytest.approx(row["scores"], abs=1e-5) for row in rows[1]]
    assert 0 <= json.loads(out)["reward_model"]["accuracy"]["value"] <= 1
    argv = ["frontier", "--reference", inputs["model"], "--gold", member, "--proxies.merged", tmp_path / "merged"]
    status, _, err = said([*argv, *short, "--output-dir", tmp_path / "frontier"], capsys)
    assert status == 0, err
    status, _, err = said(["report", Path(inputs["reward"]).parent], capsys)
    assert status == 0, err


def test_what_needs_a_policy_refuses_it(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward, short = inputs["reward"], ["--data", inputs["prompts"], "--max-length", 64]
    for argv in (
        ["sample", "--model", reward, *short, "--max-new-tokens", 6, "--output-dir", tmp_path / "sample"],
        ["dpo", "--model", reward, "--data", inputs["comparisons"], "--max-length", 64, "--output-dir", tmp_path / "d"],
    ):
        status, _, err = said(argv, capsys)
        assert status == 2
        assert "a reward model or critic, not a policy" in err
        assert SCORE_HEAD in err
    status, _, err = said(["serve-check", reward], capsys)
    assert status == 2
    assert "serving engines do not read the score head" in err
    status, _, err = said(["eval", "--reward-model", inputs["model"], "--data", inputs["comparisons"]], capsys)
    assert status == 2
    assert "no score head" in err
