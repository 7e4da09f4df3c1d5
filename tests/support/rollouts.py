"""A tiny model with weights large enough that context matters, and a tokenizer that names ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from assent.models.batch import TokenCompletion, TokenGroup
from tests.support.architectures import plain_logprobs as of_groups
from tests.support.models import tiny_llama

SHARP = {
    "vocab_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": None,
}


class IdTokenizer:
    """Decodes id 5 as "5"; ids below 3 are special."""

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: object) -> list[str]:
        return [" ".join(str(i) for i in row if i >= 3) for row in rows]


def sharp_llama(*, seed: int = 0, scale: float = 10.0, **config: Any) -> PreTrainedModel:
    """A Llama whose next token depends on all that stands before it."""
    return tiny_llama(seed=seed, scale=scale, **{**SHARP, **config})


@torch.no_grad()
def plain_logprobs(
    model: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int], temperature: float = 1.0
) -> torch.Tensor:
    """(len(ids),) by one full, unpadded read."""
    group = TokenGroup(tuple(prompt), (TokenCompletion(tuple(ids)),))
    return of_groups(model, [group], temperature=temperature)
