"""Adds tokens to a model. Their embedding rows are the mean of the known rows; row counts are a multiple of 64."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

MULTIPLE = 64
"""Row counts of the embedding are padded to a multiple of it, at which matrix kernels are fast."""
_PADS = ("<|pad|>", "<pad>", "[PAD]", "<PAD>", "<|padding|>", "<|finetune_right_pad_id|>", "<|pad_token|>")
_UNUSED = re.compile(r"reserved|unused|_pad\||\|extra_")
"""Special tokens that models keep in reserve, or for images."""


def add_control_tokens(
    model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]
) -> list[str]:
    """Makes each of `tokens` one control token. Returns those that were not in the vocabulary.

    New embedding rows (input, output, and output bias) are the mean of the known vocabulary's rows, so that a new token
    starts as an average one, not as a random one. Without a model only the tokenizer changes. It keeps the new tokens
    in `new_tokens`, and a model that is loaded for it later gets their rows then (`sync_tokens`).
    """
    known = tokenizer.get_vocab()
    new = [token for token in tokens if token not in known]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    tokenizer.new_tokens = (*getattr(tokenizer, "new_tokens", ()), *new)
    if model is not None and new:
        sync_tokens(model, tokenizer, fresh=new)
    return new


def _input_rows(model: PreTrainedModel) -> int:
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


@torch.no_grad()
def _grow(model: PreTrainedModel, *, new_size: int, ids: Sequence[int]) -> None:
    """Grows the embeddings to `new_size` ids. Rows of `ids`, and all added rows, become the mean of earlier rows."""
    rows = _input_rows(model)
    known = min([rows, *ids])
    if new_size > rows:
        model.resize_token_embeddings(new_size, pad_to_multiple_of=MULTIPLE, mean_resizing=False)
    embedding: Any = model.get_input_embeddings()
    weights: list[Tensor] = [embedding.weight]
    head: Any = model.get_output_embeddings()
    if head is not None:
        if head.weight is not weights[0]:  # untied
            weights.append(head.weight)
        if getattr(head, "bias", None) is not None:
            weights.append(head.bias)
    # rows beyond the tokenizer (padding to the multiple) are set too, so that they do not stand out in the softmax
    fresh = sorted({*ids, *range(rows, weights[0].shape[0])})
    for weight in weights:
        weight[fresh] = weight[:known].float().mean(0).to(weight.dtype)


def choose_pad(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Sets a pad token that no text ends with: the present one, an unused special token, or a new `<|pad|>`.

    Returns a line that says what was done; None if nothing was.
    """
    ends = {tokenizer.eos_token_id, *getattr(tokenizer, "generation_eos_ids", ())} - {None}
    taken = ends | {tokenizer.bos_token_id, tokenizer.unk_token_id}
    present = tokenizer.pad_token_id
    if present is not None and present not in ends:
        return None
    special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special and i not in taken}
    known = [t for t in _PADS if t in special] + [t for t in special if _UNUSED.search(t)]
    pad = known[0] if known else _PADS[0]
    tokenizer.add_special_tokens({"pad_token": pad})
    why = "no pad token" if present is None else "a pad token that ends texts"
    return f"the tokenizer had {why}; it is now {pad!r}" + ("" if known else ", a new token")


def sync_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, fresh: Sequence[str] = ()) -> None:
    """Makes the model fit its tokenizer: rows for every id, pad id, and the EOS set in config and generation config.

    `fresh` tokens get the mean row even if the embedding has rows in reserve for them.
    """
    vocabulary = tokenizer.get_vocab() if fresh else {}
    if fresh or len(tokenizer) > _input_rows(model):
        _grow(model, new_size=len(tokenizer), ids=[vocabulary[token] for token in fresh])
    generation = getattr(model, "generation_config", None)
    ends = {*getattr(tokenizer, "generation_eos_ids", ()), *eos_ids_of(generation)}
    if tokenizer.eos_token_id is not None:
        ends.add(int(tokenizer.eos_token_id))
    if ends:
        set_eos_ids(model, ends, first=tokenizer.eos_token_id)
    pad = tokenizer.pad_token_id
    model.config.pad_token_id = pad
    model.config.get_text_config().pad_token_id = pad
    embedding: Any = model.get_input_embeddings()
    if getattr(embedding, "padding_idx", None) is not None:
        embedding.padding_idx = pad  # this row gets no gradient; it was the EOS's in a folder whose pad is the EOS
    if generation is not None:
        generation.pad_token_id = pad


def eos_ids_of(config: Any) -> set[int]:
    """The EOS ids of a generation config (or any config), whether it has one or a list."""
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        return set()
    return {int(i) for i in (ids if isinstance(ids, (list, tuple)) else [ids])}


def set_eos_ids(model: PreTrainedModel, ids: Iterable[int], *, first: int | None) -> None:
    """Writes the EOS set to the model's configs, with `first` first, because some tools read only that one."""
    ordered = sorted(set(ids), key=lambda i: (i != first, i))
    value: int | list[int] = ordered[0] if len(ordered) == 1 else ordered
    model.config.eos_token_id = value
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.eos_token_id = value
