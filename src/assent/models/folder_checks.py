"""Checks of a folder's files that serving engines rely on: template, EOS, pad, tied weights, types, bias."""

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
    """One check's result. `where` is "folder" or an engine. A note is not a fault: it is good to know, or says why a
    check does not apply."""

    where: str
    name: str
    status: Literal["passed", "differs", "note"]
    detail: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def of(cls, where: str, name: str, fault: str | None, fine: str) -> Check:
        """`fault` says what is wrong; None if nothing is. `fine` is the detail of a check that passed."""
        return cls(where, name, "passed" if fault is None else "differs", fine if fault is None else fault)


def plain_tokenizer(folder: Path) -> Any:
    """The tokenizer as a serving engine opens it."""
    with quiet():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def folder_checks(folder: Path, model: PreTrainedModel, template: Template, *, is_scorer: bool) -> list[Check]:
    """The checks of a folder. `model` and `template` are what Assent loads from it."""
    tokenizer = plain_tokenizer(folder)
    checks = [_eos(folder, template)] if not is_scorer else []
    checks += [_pad(folder, tokenizer, is_scorer=is_scorer), _tied(folder, model), _types(folder)]
    rows, size = _embedding_rows(folder, model), len(tokenizer)
    detail = f"{rows} embedding rows for a tokenizer of {size}"
    checks.append(Check.of("folder", "vocabulary", detail if rows < size else None, detail))
    if is_scorer:
        checks.append(_bias(model))
    return checks


def _eos(folder: Path, template: Template) -> Check:
    """Generation must stop at the tokens with which training taught the model to end."""
    generation = read_json(folder, "generation_config.json") or read_json(folder, "config.json")
    listed = generation.get("eos_token_id")
    stops = set() if listed is None else set(listed) if isinstance(listed, list) else {listed}
    tokenizer = template.tokenizer
    ends = {} if tokenizer.eos_token_id is None else {tokenizer.eos_token: tokenizer.eos_token_id}
    if template.source is not None and (turn := template.end_of_turn) is not None:
        ends[turn] = tokenizer.convert_tokens_to_ids(turn)
    lacking = {token: number for token, number in ends.items() if number not in stops}
    detail = f"generation stops at {sorted(stops) or 'nothing'}"
    fault = None
    if lacking:
        names = ", ".join(f"{token!r} ({number})" for token, number in lacking.items())
        fault = f"{detail}, which lacks {names}, so answers would run on"
    return Check.of("folder", "eos", fault, detail)


def _pad(folder: Path, tokenizer: Any, *, is_scorer: bool) -> Check:
    pad, config = tokenizer.pad_token_id, read_json(folder, "config.json")
    listed = config.get("eos_token_id")
    ends = {tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])} - {None}
    fault = None
    if pad is None:
        fault = "the tokenizer has no pad token, so batches cannot be padded"
    elif pad in ends:
        fault = (
            f"the pad token {tokenizer.pad_token!r} also ends texts, so further training would not learn to end them"
        )
    elif is_scorer and config.get("pad_token_id") != pad:
        fault = (
            f"pad_token_id is {config.get('pad_token_id')} in config.json and {pad} in the tokenizer, so other engines "
            "may read scores at the wrong token"
        )
    return Check.of("folder", "pad", fault, f"{tokenizer.pad_token!r} ({pad})")


def _tied(folder: Path, model: PreTrainedModel) -> Check:
    """Checks what config.json says is tied. If the stored weights differ, transformers does not tie them; others do."""
    known: Any = getattr(model, "_tied_weights_keys", None)
    stated = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    tied: dict[str, str] = known if stated and isinstance(known, dict) else {}
    stored = shapes_of(folder)
    if not tied:
        return Check("folder", "tied weights", "passed", "none are tied")
    for target, source in tied.items():
        if target in stored and source in stored and not torch.equal(_stored(folder, target), _stored(folder, source)):
            fault = f"config.json ties {target} to {source}, but the folder has different values for the two"
            return Check("folder", "tied weights", "differs", fault)
    return Check(
        "folder", "tied weights", "passed", ", ".join(f"{target} is {source}" for target, source in tied.items())
    )


def _types(folder: Path) -> Check:
    """All weights must have the one floating type that config.json names, because engines load that type."""
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
    """Embedding rows in the folder. The loaded model may have more, because it has grown to fit its tokenizer."""
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
