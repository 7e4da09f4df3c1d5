"""Models as people have them, through every stage: a pad token that is the EOS, an output head of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from assent.config.online import PpoConfig
from assent.config.stages import PreferenceConfig, RewardConfig, SftConfig
from assent.stages import online, preference, reward, sft
from tests.support.stages import told, write_inputs

STAGES: dict[str, tuple[Callable[..., Any], type]] = {
    "sft": (sft.train, SftConfig),
    "reward": (reward.train, RewardConfig),
    "dpo": (preference.train, PreferenceConfig),
    "ppo": (online.train, PpoConfig),
}
DATA = {"sft": "demonstrations", "reward": "comparisons", "dpo": "comparisons", "ppo": "prompts"}


def changed(folder: Path, start: str, *, pad_is_eos: bool = False, untied: bool = False) -> str:
    """The model of `start` with other settings, as transformers writes it."""
    config = LlamaConfig.from_pretrained(start, tie_word_embeddings=not untied)
    tokenizer = AutoTokenizer.from_pretrained(start)
    if pad_is_eos:
        tokenizer.pad_token, config.pad_token_id = tokenizer.eos_token, tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_pretrained(start)
    if untied:
        torch.manual_seed(1)
        tied, model = model, AutoModelForCausalLM.from_config(config)
        model.model.load_state_dict(tied.model.state_dict())
    model.config.pad_token_id = model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def whole_way(inputs: dict[str, str], model: str, folder: Path) -> dict[str, Path]:
    """sft, from it a reward model and dpo, and ppo with that reward model; the folders."""
    for command, (function, config_class) in STAGES.items():
        given: dict[str, Any] = {"model": model if command == "sft" else str(folder / "sft" / "model")}
        given |= {"data": inputs[DATA[command]], "output_dir": str(folder / command), "max_length": 64}
        given |= {"learning_rate": 3e-3, "batch_size": 4}
        given |= {"total_steps": 2, "max_new_tokens": 6} if command == "ppo" else {"max_steps": 2}
        given |= {"reward": str(folder / "reward" / "model")} if command == "ppo" else {}
        given |= {"reference_cache": str(folder / "cache")} if command == "dpo" else {}
        function(config_class(**given))
    return {command: folder / command for command in STAGES}


def test_a_pad_that_is_the_eos_changes_nothing(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    usual = whole_way(inputs, inputs["model"], tmp_path / "usual")
    model = changed(tmp_path / "pad", inputs["model"], pad_is_eos=True)
    assert AutoTokenizer.from_pretrained(model).pad_token_id == AutoTokenizer.from_pretrained(model).eos_token_id
    for command, folder in whole_way(inputs, model, tmp_path / "pad_is_eos").items():
        assert told(folder / "metrics.jsonl") == told(usual[command] / "metrics.jsonl"), command
        config = json.loads((folder / "model" / "config.json").read_text())
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        assert config["pad_token_id"] == tokenizer.pad_token_id
        assert tokenizer.pad_token_id not in (config["eos_token_id"], tokenizer.eos_token_id)


def test_a_head_of_its_own_is_trained_and_saved_apart(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    model = changed(tmp_path / "untied", inputs["model"], untied=True)
    folders = whole_way(inputs, model, tmp_path / "runs")
    before = load_file(Path(model) / "model.safetensors")
    for command in ("sft", "dpo", "ppo"):
        folder = folders[command] / "model"
        weights = load_file(folder / "model.safetensors")
        for name in ("lm_head.weight", "model.embed_tokens.weight"):
            assert (weights[name] - before[name]).abs().max() > 1e-3, (command, name)
        assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.equal(loaded.lm_head.weight, weights["lm_head.weight"])
        before = weights if command == "sft" else before
    scorer = AutoModelForSequenceClassification.from_pretrained(folders["reward"] / "model")
    assert scorer.num_labels == 1
