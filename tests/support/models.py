"""Tiny models: a folder on disk with its tokenizer, and models in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from assent.models.module import AlignmentModel
from assent.models.new_model import new_model
from assent.runs.files import write_json
from assent.runs.manifest import new_manifest

TEXTS = [f"what is {i} plus {i}? it is {2 * i}. no, I will not say." for i in range(40)]
LLAMA = {
    "vocab_size": 17,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def tiny_model(
    folder: Path,
    *,
    texts: Iterable[str] = TEXTS,
    vocab_size: int = 300,
    hidden_size: int = 32,
    layers: int = 2,
    context: int = 128,
    seed: int = 0,
) -> str:
    """The folder of a Llama of some 20,000 weights, its tokenizer trained on `texts`."""
    sizes = {"vocab_size": vocab_size, "hidden_size": hidden_size, "layers": layers, "heads": 2, "context": context}
    new_model(folder, texts=texts, seed=seed, **sizes)
    return str(folder)


def tiny_llama(
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    kind: str = "policy",
    seed: int = 0,
    scale: float = 1.0,
    **config: Any,
) -> PreTrainedModel:
    """A Llama of a few thousand weights, for the ids of `tokenizer` where one is given."""
    ids = {}
    if tokenizer is not None:
        ends = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        ids = {"vocab_size": len(tokenizer), **ends}
    return random_model(LlamaConfig(**{**LLAMA, **ids, **config}), kind=kind, seed=seed, scale=scale)


def random_model(
    config: PretrainedConfig, *, kind: str = "policy", num_labels: int = 1, seed: int = 0, scale: float = 1.0
) -> PreTrainedModel:
    """A fresh model of `config` whose matrices are multiplied by `scale`: the larger, the more the context matters."""
    torch.manual_seed(seed)
    automatic = AutoModelForCausalLM
    if kind == "scorer":
        automatic, config.num_labels = AutoModelForSequenceClassification, num_labels
    model = automatic.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2 and scale != 1.0:
                parameter.mul_(scale)
    return model


def finished_run(folder: Path, model: str | Path) -> Path:
    """A run's folder that holds a copy of a model as its result."""
    shutil.copytree(model, folder / "model")
    manifest = new_manifest({"command": "sft", "config": {}, "hashes": {}}, [])
    write_json(folder / "run.json", {**manifest, "status": "finished", "result": {"steps": 1, "metrics": {}}})
    return folder


def write_folder(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_module(*, kind: str = "policy", **more: Any) -> AlignmentModel:
    """`tiny_llama` as what a learner holds."""
    return AlignmentModel(tiny_llama(kind=kind, **more), kind=kind)  # type: ignore[arg-type]
