"""Models and tokenizers from folders or the hub (laws 6 and 10): safetensors only, no code of the folder's own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from assent.errors import ModelError
from assent.models.folders import check_config, check_weights, has_tokenizer, read_json, resolve_folder
from assent.models.saving import quiet, save_model
from assent.models.vocabulary import choose_pad, sync_tokens

__all__ = ["check_context", "fingerprint", "load_config", "load_policy", "load_scorer", "load_tokenizer", "save_model"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(
    path: str | Path,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
) -> PreTrainedModel:
    """A causal language model, on the CPU, in evaluation mode. An adapter folder (PEFT) gives its base, merged.

    With `tokenizer`, embedding rows, pad and EOS ids are made to fit it; with `max_length`, the context must hold it.
    Errors: ModelError says what the folder lacks.
    """
    folder = resolve_folder(path, revision=revision)
    if adapter := read_json(folder, "adapter_config.json"):
        model = _merged(folder, adapter, dtype=dtype)
    else:
        config = check_config(folder)
        if _is_classifier(config):
            raise ModelError(
                "this folder holds a reward model or critic, not a policy",
                got=f"{folder}: {', '.join(config['architectures'])}",
                expected="a causal language model",
            )
        check_weights(folder)
        model = _load(AutoModelForCausalLM, folder, may_miss=set(), dtype=DTYPES[dtype])
    return _ready(model, folder, tokenizer, max_length)


def load_scorer(
    path: str | Path,
    *,
    num_labels: int = 1,
    seed: int = 0,
    dtype: str = "float32",
    revision: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
) -> PreTrainedModel:
    """A sequence classifier whose linear head is `model.score`. A classifier's folder keeps its head and its labels.

    A causal folder gets a fresh head of `num_labels` rows from N(0, 1/sqrt(d + 1)), d the hidden size (Stiennon et al.,
    arXiv:2009.01325), a function of `seed`. Errors: ModelError.
    """
    folder = resolve_folder(path, revision=revision)
    config = check_config(folder)
    check_weights(folder)
    if _is_classifier(config):
        model = _load(AutoModelForSequenceClassification, folder, may_miss=set(), dtype=DTYPES[dtype])
        _check_head(model, folder)
    else:
        model = _load(
            AutoModelForSequenceClassification,
            folder,
            may_miss={"score.weight"},
            dtype=DTYPES[dtype],
            num_labels=num_labels,
        )
        _check_head(model, folder)
        head: Any = model.score
        deviation = 1.0 / math.sqrt(head.weight.shape[1] + 1)
        generator = torch.Generator().manual_seed(seed)
        fresh = torch.randn(head.weight.shape, generator=generator, dtype=torch.float32) * deviation
        head.weight.data.copy_(fresh)
    return _ready(model, folder, tokenizer, max_length)


def load_tokenizer(path: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The folder's tokenizer with a pad token that never ends a text.

    The generation config's EOS ids are kept on it as `generation_eos_ids`, for `resolve_template`.
    Errors: ModelError where the folder has no tokenizer.
    """
    folder = resolve_folder(path, revision=revision)
    if not has_tokenizer(folder):
        base = read_json(folder, "adapter_config.json").get("base_model_name_or_path")
        if base:
            return load_tokenizer(base)
        raise ModelError(
            "the model folder has no tokenizer",
            got=folder,
            expected="tokenizer.json",
            fix="copy the tokenizer's files into the folder, or save it there with tokenizer.save_pretrained",
        )
    # a tokenizer with code of its own: its tokenizer.json says the same without running any
    own_code = "auto_map" in read_json(folder, "tokenizer_config.json") and (folder / "tokenizer.json").is_file()
    kind: Any = PreTrainedTokenizerFast if own_code else AutoTokenizer
    try:
        with quiet():
            tokenizer = kind.from_pretrained(folder)
    except Exception as error:  # the libraries raise bare Exception for a broken tokenizer.json
        raise ModelError(f"the tokenizer cannot be read: {error}", got=folder) from error
    eos = read_json(folder, "generation_config.json").get("eos_token_id")
    if eos is None:
        eos = read_json(folder, "config.json").get("eos_token_id")
    ids = eos if isinstance(eos, list) else [eos]
    tokenizer.generation_eos_ids = frozenset(int(i) for i in ids if i is not None)
    choose_pad(tokenizer)
    return tokenizer


def fingerprint(model: torch.nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the weights, 16 hex digits. Tied weights count once."""
    named = dict(model) if isinstance(model, Mapping) else dict(model.named_parameters())
    digest = hashlib.sha256()
    for name in sorted(named):
        tensor = named[name].detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def check_context(config: Any, max_length: int) -> None:
    """Errors: ModelError where the model's positions end before `max_length`."""
    text = config.get_text_config()
    context = next(
        (n for key in ("max_position_embeddings", "n_positions") if isinstance(n := getattr(text, key, None), int)),
        None,
    )
    if context is not None and context < max_length:
        raise ModelError(
            "the model's context is shorter than max_length",
            got=f"max_length {max_length}, context {context}",
            fix=f"--max-length {context}, or a model with a longer context",
        )


def _load(kind: Any, folder: Path, *, may_miss: set[str], **options: Any) -> PreTrainedModel:
    try:
        with quiet():
            model, info = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the model cannot be loaded: {str(error).splitlines()[0]}", got=folder) from error
    missing = sorted(set(info["missing_keys"]) - may_miss)
    if missing:
        raise ModelError(
            f"the folder lacks {len(missing)} of the model's weights, and random ones would take their place",
            got=f"{folder}: {', '.join(missing[:3])}",
            fix="check that the folder's config.json belongs to its weights",
        )
    return model.eval()


def _ready(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase | None, max_length: int | None
) -> PreTrainedModel:
    if tokenizer is not None:
        new = getattr(tokenizer, "new_tokens", ())
        if new and has_tokenizer(folder):  # a folder that was trained with them keeps its rows
            known = load_tokenizer(folder).get_vocab()
            new = [token for token in new if token not in known]
        sync_tokens(model, tokenizer, fresh=new)
    if max_length is not None:
        check_context(model.config, max_length)
    return model


def _merged(folder: Path, adapter: Mapping[str, Any], *, dtype: str) -> PreTrainedModel:
    from peft import PeftModel

    base = adapter.get("base_model_name_or_path")
    if not base:
        raise ModelError("the adapter names no base model", got=folder, expected="base_model_name_or_path")
    check_weights(folder)
    model = load_policy(base, dtype=dtype, revision=adapter.get("revision"))
    try:
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the adapter does not fit its base: {str(error).splitlines()[0]}", got=folder) from error
    return merged.eval()


def _is_classifier(config: Mapping[str, Any]) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _check_head(model: PreTrainedModel, folder: Path) -> None:
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise ModelError(
            "this kind of model has no linear score head", got=f"{type(model).__name__} in {folder}", expected="score"
        )


def load_config(path: str | Path, *, revision: str | None = None) -> Any:
    """The model's configuration alone, without its weights. Errors: ModelError."""
    folder = resolve_folder(path, revision=revision)
    check_config(folder)
    with quiet():
        return AutoConfig.from_pretrained(folder)
