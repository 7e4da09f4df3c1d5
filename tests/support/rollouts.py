"""A tiny model with weights large enough that context matters, and a tokenizer that names ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from assent.models.batch import TokenCompletion, TokenGroup
from assent.rollouts.sampler import SeedKey
from assent.rollouts.torch_sampler import TorchSampler
from assent.types import Rollout
from tests.support.architectures import plain_logprobs as of_groups
from tests.support.models import tiny_llama

PROMPTS = [(3, 4, 5), (6, 7, 8, 9, 10, 11, 12), (5,), (3, 4, 5, 20, 21), (9, 9, 1, 30)]
KEY = SeedKey(0, "rollout", 0)
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


def sampler(model: PreTrainedModel | None = None, **options: object) -> TorchSampler:
    made = TorchSampler(sharp_llama() if model is None else model, IdTokenizer(), **{"eos_ids": (2,), **options})  # type: ignore[arg-type]
    made.load({}, "v1")
    return made


def same(a: list[Rollout], b: list[Rollout]) -> None:
    """The same tokens, and log-probabilities up to rounding."""
    assert [r.ids for r in a] == [r.ids for r in b]
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "equal"}
"""Operations of which the host needs the result, or its shape: it waits there for all that a GPU was asked."""


class Waits(TorchDispatchMode):
    """Counts operations that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITS or by_mask:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))
