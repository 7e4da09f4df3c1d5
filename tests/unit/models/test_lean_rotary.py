"""Rotary positions of our own: who gets them, and that only rounding differs from transformers' own function."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.cohere.modeling_cohere import CohereAttention
from transformers.models.llama import modeling_llama

from assent.models.lean_layers import LeanRotary, install
from assent.models.lean_rotary import forward_of, rotate
from tests.support.architectures import ARCHITECTURES, make_model

ROTATED = {"llama", "llama-one-key-head", "qwen2", "qwen2-window", "qwen3", "gemma2", "gemma3", "mistral", "mixtral",
           "qwen2-moe", "qwen3-moe", "olmoe", "smollm3", "phi", "granite", "falcon-rotary", "falcon-alibi"}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_gradients_and_order_in_memory(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 5, heads, 8, generator=draw).to(dtype).transpose(1, 2).requires_grad_() for heads in (4, 2))
    cos, sin = (torch.randn(2, 5, 8, generator=draw, dtype=torch.float64).to(torch.promote_types(dtype, torch.float32))
                for _ in range(2))  # fmt: skip
    found = rotate(q, k, cos, sin)
    exact = [t.detach().double().requires_grad_() for t in (q, k)]
    wanted = modeling_llama.apply_rotary_pos_emb(*exact, cos.double(), sin.double())
    weights = [torch.randn(t.shape, generator=draw) for t in wanted]
    grads, wanted_grads = (
        torch.autograd.grad(sum((t * w).sum() for t, w in zip(out, weights, strict=True)), leaves)
        for out, leaves in ((found, (q, k)), (wanted, exact))
    )
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    for one, other in zip([*found, *grads], [*wanted, *wanted_grads], strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)
    assert found[0].dtype == torch.promote_types(dtype, torch.float32)
    assert grads[0].dtype == dtype
    assert found[0].transpose(1, 2).is_contiguous()  # attention gathers rows of all heads, without a copy


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_which_architectures_rotate_as_llama_does(name: str) -> None:
    model = make_model(name)
    install(model)
    assert any(isinstance(part, LeanRotary) for part in model.modules()) == (name in ROTATED)


def test_learned_angles_get_their_gradients() -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = (1, 2, 5, 8), (1, 2, 5, 8), (1, 5, 8), (1, 5, 8)
    leaves = [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]
    found, wanted = (
        torch.autograd.grad(sum(t.sin().sum() for t in function(*leaves)), leaves)
        for function in (rotate, modeling_llama.apply_rotary_pos_emb)
    )
    torch.testing.assert_close(found, wanted)


def test_another_rotation_and_a_forward_of_its_own_are_left_alone() -> None:
    assert forward_of(CohereAttention) is None  # interleaves its halves
    assert forward_of(nn.Linear) is None
    model = make_model("llama")
    attention = model.model.layers[0].self_attn
    attention.forward = attention.forward
    install(model)
    assert not isinstance(attention, LeanRotary)
    assert isinstance(model.model.layers[1].self_attn, LeanRotary)
