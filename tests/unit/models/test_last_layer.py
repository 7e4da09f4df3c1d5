"""The last layer's MLP sees the tokens that are read, and what it sees changes nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from assent.models.attention import LAST_LAYER
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from tests.support.architectures import (
    ARCHITECTURES,
    WHOLE,
    gradients,
    make_model,
    random_groups,
    seen_by_last_mlp,
    weighted,
)

GROUPS = random_groups()
TOKENS = sum(len(c.ids) for g in GROUPS for c in g.completions)
ENDS = sum(len(g.completions) for g in GROUPS)


def plain(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 25)[None], use_cache=False).logits


@pytest.mark.parametrize("name", [n for n, (_, _, tier) in ARCHITECTURES.items() if tier == "segments"])
def test_the_mlp_sees_a_completions_tokens_and_the_one_before_them(name: str) -> None:
    model = make_model(name)
    module = AlignmentModel(model, kind="policy")
    seen = seen_by_last_mlp(model) if module.is_short else []
    module(pack(GROUPS, device="cpu"), frozenset({"logprobs"}))
    assert seen == ([TOKENS + len(GROUPS)] if module.is_short else [])
    assert module.is_short == (name not in WHOLE)


@pytest.mark.parametrize(
    ("want", "tokens"), [({"scores"}, ENDS), ({"last_values"}, ENDS), ({"values"}, TOKENS + len(GROUPS))]
)
def test_a_score_needs_the_last_token_alone(want: set[str], tokens: int) -> None:
    model = make_model("llama", kind="scorer")
    module = AlignmentModel(model, kind="scorer")
    seen = seen_by_last_mlp(model)
    module(pack(GROUPS, device="cpu"), frozenset(want))
    assert seen == [tokens]


def test_a_plain_call_is_whole_after_a_pass_and_after_a_recomputation_that_ended_early() -> None:
    model = make_model("llama")
    module = AlignmentModel(model, kind="policy")
    expected = plain(model)
    module.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    gradients(module, weighted(module(pack(GROUPS, device="cpu"), frozenset({"logprobs"})).logprobs))
    last: Any = getattr(model.model.layers[-1].self_attn, LAST_LAYER)
    last.segments = last.segments or object()  # what a recomputation that ends early leaves behind
    model.eval()
    model.gradient_checkpointing_disable()
    assert torch.equal(plain(model), expected)


def test_a_copy_has_hooks_of_its_own() -> None:
    model = make_model("llama")
    module = AlignmentModel(model, kind="policy")
    other = copy.deepcopy(module)
    mine, theirs = (getattr(m.hf.model.layers[-1].self_attn, LAST_LAYER) for m in (module, other))
    assert mine is not theirs
    seen, seen_of_copy = seen_by_last_mlp(model), seen_by_last_mlp(other.hf)
    with torch.no_grad():
        other(pack(GROUPS, device="cpu"), frozenset({"logprobs"}))
    assert (seen, seen_of_copy) == ([], [TOKENS + len(GROUPS)])
