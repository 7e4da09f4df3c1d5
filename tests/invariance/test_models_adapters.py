"""A packed read through an adapter equals the plain padded PEFT computation, in every tier, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from assent.models.adapters import adapter_off
from assent.models.batch import TokenGroup
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from tests.support.adapters import adapted
from tests.support.architectures import (
    assert_same_gradients,
    gradients,
    make_model,
    plain_logprobs,
    plain_scores,
    random_groups,
    weighted,
)

LOGPROBS = frozenset({"logprobs"})
SCORES = frozenset({"scores"})
TIERS = ("segments", "mask", "padded")
EVERY_LAYER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


def read_as_peft_does(module: AlignmentModel, groups: list[TokenGroup]) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities and gradients of a packed read, once they are those of PEFT's own computation."""
    expected = plain_logprobs(module.hf, groups)
    got = module(pack(groups, device="cpu"), LOGPROBS).logprobs
    assert torch.allclose(got, expected, rtol=0, atol=1e-5)
    found = gradients(module, weighted(got))
    assert_same_gradients(found, gradients(module, weighted(expected)))
    return got, found


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "given",
    [{"lora_target_modules": EVERY_LAYER}, {"use_dora": True}, {"use_rslora": True, "lora_alpha": 5.0}],
    ids=["LoRA, head too", "DoRA", "rsLoRA"],
)
def test_adapters_are_read_and_trained_as_peft_does_it(tier: Any, given: dict[str, Any]) -> None:
    model = adapted(make_model("llama"), **given)
    module, groups = AlignmentModel(model, kind="policy", tier=tier), random_groups()
    got, found = read_as_peft_does(module, groups)
    assert all(".lora_" in name for name in found)
    assert len(found) == sum(p.requires_grad for p in module.parameters())
    with adapter_off(module):
        without = module(pack(groups, device="cpu"), LOGPROBS).logprobs
    assert (without - got).abs().max() > 1e-2
    assert torch.allclose(without, plain_logprobs(make_model("llama"), groups), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "opt", "qwen2"])
def test_adapters_of_other_architectures(name: str) -> None:
    module = AlignmentModel(adapted(make_model(name)), kind="policy")
    read_as_peft_does(module, random_groups())
    assert module.tier == "segments"


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("is_tied", [True, False])
def test_embeddings_beside_an_adapter_are_trained_whole(tier: Any, is_tied: bool) -> None:
    model = adapted(make_model("llama", tie_word_embeddings=is_tied), new_rows=True)
    _, found = read_as_peft_does(AlignmentModel(model, kind="policy", tier=tier), random_groups())
    whole = [name for name in found if ".modules_to_save." in name]
    assert len(whole) == (1 if is_tied else 2)
    if is_tied:
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        assert embedding.weight is head.weight


@pytest.mark.parametrize("tier", TIERS)
def test_a_reward_models_adapter_and_head(tier: Any) -> None:
    model = adapted(make_model("llama", kind="scorer"), use_dora=True)
    module = AlignmentModel(model, kind="scorer", tier=tier)
    groups = random_groups()
    expected = plain_scores(model, groups)[:, 0]
    got = module(pack(groups, device="cpu"), SCORES).scores
    assert torch.allclose(got, expected, rtol=0, atol=1e-5)
    found = gradients(module, weighted(got))
    assert_same_gradients(found, gradients(module, weighted(expected)))
    assert [name for name in found if ".lora_" not in name] == [
        "hf.base_model.model.score.modules_to_save.default.weight"
    ]


def test_activation_checkpointing_through_an_adapter_gives_the_same_gradients() -> None:
    model = adapted(make_model("llama"), use_dora=True)
    module = AlignmentModel(model, kind="policy").train()
    batch = pack(random_groups(), device="cpu")
    expected = gradients(module, weighted(module(batch, LOGPROBS).logprobs))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = []
    model.get_base_model().model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    found = gradients(module, weighted(module(batch, LOGPROBS).logprobs))
    assert_same_gradients(found, expected)
    assert len(calls) == 2  # once forward, once again in backward
