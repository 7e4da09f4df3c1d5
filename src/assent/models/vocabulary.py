"""New tokens for a model: embedding rows at the mean of the known ones, counts padded to a multiple of 64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

MULTIPLE = 64
"""Row counts of the embedding are padded to it: matrix kernels are fast there."""


def add_control_tokens(
    model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]
) -> list[str]:
    """Make each of `tokens` one control token; returns those that were not in the vocabulary.

    New embedding rows (input, output, and output bias) are the mean of the rows of the known vocabulary: a new token then
    starts as an average one instead of a random one. Without a model only the tokenizer changes.
    """
    known = tokenizer.get_vocab()
    new = [token for token in tokens if token not in known]
    old_size = len(tokenizer)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    if model is not None and new:
        ids = [int(i) for i in tokenizer.convert_tokens_to_ids(new)]
        _grow(model, old_size=old_size, new_size=max(len(tokenizer), max(ids) + 1), ids=ids)
    return new


@torch.no_grad()
def _grow(model: PreTrainedModel, *, old_size: int, new_size: int, ids: Sequence[int]) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    known = min(rows, old_size)
    if new_size > rows:
        model.resize_token_embeddings(new_size, pad_to_multiple_of=MULTIPLE, mean_resizing=False)
    weights: list[Tensor] = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None:
        if head.weight is not weights[0]:  # untied
            weights.append(head.weight)
        if getattr(head, "bias", None) is not None:
            weights.append(head.bias)
    # rows beyond the tokenizer (padding to the multiple) are set too: they must not stand out in the softmax
    fresh = sorted({*ids, *range(rows, weights[0].shape[0])})
    for weight in weights:
        weight[fresh] = weight[:known].float().mean(0).to(weight.dtype)
