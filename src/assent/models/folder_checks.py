"""What the engines that serve a folder go by, read from its files: template, EOS, pad, tied weights, types, bias."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedModel

from assent.models.adapters import shapes_of
from assent.models.folders import read_json
from assent.models.saving import quiet
from assent.models.templates import Template


@dataclass(frozen=True, slots=True)
class Check:
    """`where` is "folder" or an engine. A note is no fault: something to know, or why a check does not apply."""

    where: str
    name: str
    status: Literal["passed", "differs", "note"]
    detail: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def of(cls, where: str, name: str, fault: str | None, fine: str) -> Check:
        """`fault` says what is wrong, None where nothing is."""
        return cls(where, name, "passed" if fault is None else "differs", fine if fault is None else fault)


def plain_tokenizer(folder: Path) -> Any:
    """As whoever serves the folder opens it."""
    with quiet():
        return AutoTokenizer.from_pretrained(folder)


def folder_checks(folder: Path, model: PreTrainedModel, template: Template, *, is_scorer: bool) -> list[Check]:
    """`model` and `template` as Assent loads them from the folder."""
    tokenizer = plain_tokenizer(folder)
    checks = [_eos(folder, template)] if not is_scorer else []
    checks += [_pad(folder, tokenizer, is_scorer=is_scorer), _tied(folder, model), _types(folder)]
    rows, size = _embedding_rows(folder, model), len(tokenizer)
    told = f"{rows} embedding rows for a tokenizer of {size}"
    checks.append(Check.of("folder", "vocabulary", told if rows < size else None, told))
    if is_scorer:
        checks.append(_bias(model))
    return checks


def _eos(folder: Path, template: Template) -> Check:
    """What generation stops at must hold what training taught the model to end with."""
    generation = read_json(folder, "generation_config.json") or read_json(folder, "config.json")
    listed = generation.get("eos_token_id")
    stops = set() if listed is None else set(listed) if isinstance(listed, list) else {listed}
    tokenizer = template.tokenizer
    ends = {} if tokenizer.eos_token_id is None else {tokenizer.eos_token: tokenizer.eos_token_id}
    if template.source is not None and (turn := template.end_of_turn) is not None:
        ends[turn] = tokenizer.convert_tokens_to_ids(turn)
    lacking = {token: number for token, number in ends.items() if number not in stops}
    told = f"generation stops at {sorted(stops) or 'nothing'}"
    fault = None
    if lacking:
        names = ", ".join(f"{token!r} ({number})" for token, number in lacking.items())
        fault = f"{told}, which lacks {names}: answers would run on"
    return Check.of("folder", "eos", fault, told)


def _pad(folder: Path, tokenizer: Any, *, is_scorer: bool) -> Check:
    pad, config = tokenizer.pad_token_id, read_json(folder, "config.json")
    listed = config.get("eos_token_id")
    ends = {tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])} - {None}
    fault = None
    if pad is None:
        fault = "the tokenizer has no pad token: batches cannot be padded"
    elif pad in ends:
        fault = f"the pad token {tokenizer.pad_token!r} ends texts: trained on again, texts would never learn to end"
    elif is_scorer and config.get("pad_token_id") != pad:
        fault = (
            f"config.json's pad_token_id is {config.get('pad_token_id')}, the tokenizer's {pad}: scores are read by it"
        )
    return Check.of("folder", "pad", fault, f"{tokenizer.pad_token!r} ({pad})")


def _tied(folder: Path, model: PreTrainedModel) -> Check:
    """By config.json: a model whose tied weights differ in the folder is not tied by transformers, but by others."""
    known: Any = getattr(model, "_tied_weights_keys", None)
    stated = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    tied: dict[str, str] = known if stated and isinstance(known, dict) else {}
    stored = shapes_of(folder)
    if not tied:
        return Check("folder", "tied weights", "passed", "none are tied")
    for target, source in tied.items():
        if target in stored and source in stored and not torch.equal(_stored(folder, target), _stored(folder, source)):
            fault = f"config.json ties {target} to {source}, and the folder holds different values for the two"
            return Check("folder", "tied weights", "differs", fault)
    return Check(
        "folder", "tied weights", "passed", ", ".join(f"{target} is {source}" for target, source in tied.items())
    )


def _types(folder: Path) -> Check:
    """One floating type in all weights, and config.json says which: engines load what it says."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    found = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            found |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    floating = sorted(names[kind] for kind in found if kind in names)
    config = read_json(folder, "config.json")
    stated = config.get("dtype", config.get("torch_dtype"))
    fault = None if floating == [stated] else f"the weights are {', '.join(floating)}, config.json says {stated}"
    return Check.of("folder", "dtype", fault, str(stated))


def _bias(model: PreTrainedModel) -> Check:
    bias = getattr(model.config, "assent_score_bias", 0.0)
    if not np.any(bias):
        return Check("folder", "score bias", "passed", "none")
    return Check("folder", "score bias", "note", f"{bias}: Assent adds it to the scores, other engines do not")


def _embedding_rows(folder: Path, model: PreTrainedModel) -> int:
    """In the folder: a model that is loaded for its tokenizer has grown to fit it."""
    embedding: Any = model.get_input_embeddings()
    name = next((name for name, parameter in model.named_parameters() if parameter is embedding.weight), "")
    return shapes_of(folder).get(name, tuple(embedding.weight.shape))[0]


def _stored(folder: Path, name: str) -> torch.Tensor:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            if name in weights.keys():  # noqa: SIM118
                tensor: torch.Tensor = weights.get_tensor(name)
                return tensor
    raise KeyError(name)
