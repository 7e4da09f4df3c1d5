"""Runs that train an adapter: what they save, what they read as their reference, how they resume and go on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from assent.models.loading import fingerprint, load_policy, load_scorer, load_tokenizer
from assent.rewards.reward_model import RewardModel
from assent.types import Message
from tests.support.cli import said
from tests.support.rows import read_rows
from tests.support.stages import Fault, arguments, run, told, write_inputs

LORA = ["--lora-r", "2", "--learning-rate", "3e-2"]
ADAPTER = "model/adapter_model.safetensors"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def train(inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command on the inputs; its folder. Later arguments win over earlier ones."""

    def done(command: str, name: str, *more: str, **other: str) -> Path:
        argv = arguments(command, {**inputs, **other}, tmp_path / name)
        for option in more[::2]:
            if option in argv:
                del argv[argv.index(option) : argv.index(option) + 2]
        status, _, err = said([*argv, *more], capsys)
        assert status == 0, err
        return tmp_path / name

    return done


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())["facts"]


def notes(folder: Path) -> str:
    return "\n".join(json.loads((folder / "run.json").read_text())["notes"])


def last(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())["result"]["metrics"]


@pytest.mark.parametrize("command", ["sft", "reward", "dpo", "ppo"])
def test_only_the_adapter_is_trained_checkpointed_and_saved(command: str, train: Any, inputs: dict[str, str]) -> None:
    more = ["--critic-learning-rate", "3e-3"] if command == "ppo" else ["--use-dora"]
    folder = train(command, "run", *LORA, *more)
    for checkpoint in (folder / "checkpoints").glob("*/*/model.safetensors"):
        with safe_open(checkpoint, framework="pt") as stored:
            assert all(".lora_" in name or ".modules_to_save." in name for name in stored.keys())  # noqa: SIM118
    assert not (folder / "start").exists()
    assert "parameters are trained" in notes(folder)
    adapter = json.loads((folder / "model/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(Path(inputs["model"]).resolve())
    assert (adapter["r"], adapter["lora_alpha"]) == (2, 4)
    load = load_scorer if command == "reward" else load_policy
    assert fingerprint(load(folder / "model")) != fingerprint(load(inputs["model"]))
    if command != "reward":
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(inputs["model"]), str(folder / "model"))
        ids = torch.tensor([[5, 6, 7]])
        torch.testing.assert_close(model(ids).logits, load_policy(folder / "model")(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("command", ["reward", "ppo"])
def test_a_killed_run_ends_as_one_that_never_was(command: str, inputs: dict[str, str], tmp_path: Path) -> None:
    messages, whole, broken = tmp_path / "messages", tmp_path / "whole", tmp_path / "broken"
    assert run([*arguments(command, inputs, whole), "--lora-r", "2"], messages) == 0, messages.read_text()
    argv = [*arguments(command, inputs, broken), "--lora-r", "2"]
    assert run(argv, messages, Fault(after=3, number=signal.SIGKILL)) == -signal.SIGKILL
    assert run(argv, messages) == 0, messages.read_text()
    assert "resumed after step 2" in messages.read_text()
    assert (broken / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
    assert told(broken / "metrics.jsonl") == told(whole / "metrics.jsonl")
    assert facts(broken)["fingerprints"] == facts(whole)["fingerprints"]


def test_ppos_reference_is_the_policy_with_its_adapter_off(train: Any, inputs: dict[str, str]) -> None:
    adapter, plain = train("ppo", "adapter", *LORA), train("ppo", "plain")
    given = train("ppo", "given", *LORA, "--reference", inputs["model"])
    assert [last(folder)["cost/models_resident"] for folder in (adapter, plain, given)] == [2, 3, 3]
    expected = fingerprint(load_policy(inputs["model"]))
    for folder in (adapter, plain, given):
        assert facts(folder)["fingerprints"]["reference_start"] == expected
        assert facts(folder)["fingerprints"]["reference_end"] == expected
    rows = [[row for row in told(folder / "metrics.jsonl") if "objective/kl" in row] for folder in (adapter, given)]
    assert abs(rows[0][0]["objective/kl"]) < 1e-4  # before the first update
    assert abs(rows[0][-1]["objective/kl"]) > 1e-3
    for mine, other in zip(*rows, strict=True):  # a second model of the same weights reads the same numbers
        assert mine["objective/kl"] == pytest.approx(other["objective/kl"], abs=1e-4)
    assert "gate/kl" in (adapter / "metrics.jsonl").read_text()


def test_dpos_reference_is_read_with_the_adapter_off(train: Any, inputs: dict[str, str]) -> None:
    plain = train("dpo", "plain")
    adapter = train("dpo", "adapter", *LORA)
    assert "completions: computed" in notes(plain)
    assert "completions: read from the cache" in notes(adapter)  # of the same start
    expected = fingerprint(load_policy(inputs["model"]))
    assert facts(adapter)["fingerprints"]["reference_start"] == expected
    assert facts(adapter)["fingerprints"]["model_start"] != expected
    assert last(adapter)["rewards/margins"] > 0.01


def test_an_adapter_is_merged_and_a_new_one_goes_on_top(train: Any, inputs: dict[str, str]) -> None:
    sft = train("sft", "sft", *LORA)
    dpo = train("dpo", "dpo", *LORA, model=str(sft / "model"))
    assert "is an adapter itself" in notes(dpo)
    start = fingerprint(load_policy(sft / "model"))
    assert facts(dpo)["fingerprints"]["reference_start"] == start  # law 4: the merged start
    assert fingerprint(load_policy(dpo / "start")) == start != fingerprint(load_policy(inputs["model"]))
    assert load_tokenizer(dpo / "start").chat_template == load_tokenizer(inputs["model"]).chat_template
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(dpo / "start"), str(dpo / "model"))
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model(ids).logits, load_policy(dpo / "model")(ids).logits, rtol=0, atol=1e-5)
    whole = train("dpo", "whole", model=str(sft / "model"))  # without an adapter of its own: the merged weights
    assert (whole / "model/model.safetensors").is_file()
    reward = train("reward", "reward", *LORA, model=str(sft / "model"))
    assert load_scorer(reward / "model").score.weight.shape == (1, 32)
    on_top = train("reward", "on-top", *LORA, model=str(reward / "model"))
    assert torch.equal(load_scorer(on_top / "start").score.weight, load_scorer(reward / "model").score.weight)
    ppo = train("ppo", "ppo", *LORA, "--reward", str(reward / "model"), model=str(sft / "model"))
    assert "critic: " + str(reward / "model") + " is an adapter itself" in notes(ppo)
    assert fingerprint(load_policy(ppo / "start")) == start


def test_an_ensembles_heads_gains_and_biases_come_back_with_its_adapter(train: Any, inputs: dict[str, str]) -> None:
    folder = train("reward", "run", *LORA, "--num-heads", "2", "--normalize-rewards")
    scorer = load_scorer(folder / "model")
    assert scorer.score.weight.shape == (2, 32)
    assert len(scorer.config.assent_score_bias) == scorer.config.assent_ensemble_size == 2
    rows = read_rows(inputs["comparisons"])
    pairs = [
        (tuple(Message(**m) for m in row["prompt"]), row[side][0]["content"])
        for row in rows
        for side in ("chosen", "rejected")
    ]
    scores = RewardModel(str(folder / "model")).score(*zip(*pairs, strict=True))
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-4)  # the mean of two members of mean 0 each
    assert max(scores) - min(scores) > 0.5


def test_new_control_tokens_are_trained_with_the_adapter(train: Any, inputs: dict[str, str], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in Path(inputs["model"]).iterdir():
        (bare / file.name).write_bytes(file.read_bytes())
    (bare / "chat_template.jinja").unlink()
    template = tmp_path / "template.jinja"
    known = (Path(inputs["model"]) / "chat_template.jinja").read_text()
    template.write_text(known.replace("<|im_start|>", "<|turn|>").replace("<|im_end|>", "<|done|>"))
    folder = train("sft", "run", *LORA, "--chat-template", str(template), model=str(bare))
    adapter = json.loads((folder / "model/adapter_config.json").read_text())
    assert "in full: embed_tokens" in notes(folder)
    assert "new tokens: <|" in notes(folder)
    assert "embed_tokens" in str(adapter["modules_to_save"])
    merged = load_policy(folder / "model")
    tokenizer = load_tokenizer(folder / "model")
    assert merged.get_input_embeddings().weight.shape[0] >= len(tokenizer)


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--lora-alpha", "8"], ["lora_alpha has no effect without lora_r"]),
        (["--use-dora"], ["use_dora has no effect without lora_r"]),
        (["--lora-target-modules", "q_proj", "v_proj"], ["lora_target_modules has no effect"]),
        (["--lora-r", "2", "--lora-target-modules", "q_porj"], ["q_porj", "q_proj"]),
        (["--lora-r", "2", "--lora-dropout", "0.1"], ["--lora-dropout"]),
        (["--lora-r", "2", "--load-in-4bit"], ["4"]),
        (["--master-weights"], ["master_weights has no effect with dtype float32"]),
        (["--lora-r", "2", "--master-weights", "--dtype", "bfloat16"], ["has no effect with lora_r"]),
        (["--load-in-4bit", "--lora-r", "2", "--device", "cpu"], ["needs CUDA"]),
    ],
)
def test_options_without_effect_or_without_what_they_need_are_refused(
    more: list[str], parts: list[str], inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said([*arguments("dpo", inputs, tmp_path / "run"), *more], capsys)
    assert status == 2
    assert all(part in err for part in parts), err
    assert not (tmp_path / "run").exists()
