"""Rotary positions (Su et al., arXiv:2104.09864) with three passes over a tensor, forward and backward.

transformers rotates with a negation, a concatenation, two products and a sum; the gradient of its slices fills tensors
with zeros, and its concatenation changes the order in memory, so that attention has to copy. Attention modules that use
Llama's function, by its compiled code, get the one below in its place: their own `forward`, with one name changed.

Legend: B rows, H heads, T tokens, D head width.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.llama import modeling_llama

_NAME = "apply_rotary_pos_emb"


def forward_of(kind: type[nn.Module]) -> FunctionType | None:
    """`kind`'s forward with the rotation below; None if it does not use Llama's."""
    forward: Any = kind.forward
    code, names = getattr(forward, "__code__", None), getattr(forward, "__globals__", {})
    if code is None or _NAME not in code.co_names or not _is_llamas(names.get(_NAME)):
        return None
    changed = FunctionType(code, {**names, _NAME: rotate}, code.co_name, forward.__defaults__, forward.__closure__)
    changed.__kwdefaults__ = forward.__kwdefaults__
    changed.__qualname__, changed.__doc__ = forward.__qualname__, forward.__doc__
    return changed


def _is_llamas(function: Any) -> bool:
    known = modeling_llama.apply_rotary_pos_emb
    halves = getattr(function, "__globals__", {}).get("rotate_half")
    return _instructions(function) == _instructions(known) and (
        _instructions(halves) == _instructions(modeling_llama.rotate_half)
    )


def _instructions(function: Any) -> tuple[Any, ...] | None:
    code = getattr(function, "__code__", None)
    return code and (code.co_code, code.co_names, code.co_consts[1:], code.co_argcount)


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """(B, H, T, D), (B, J, T, D), (B, T, D) twice -> the rotated queries and keys, in the order of memory of each."""
    known = all(type(t) is Tensor and t.device.type == "cpu" and t.is_floating_point() for t in (q, k, cos, sin))
    if not known or cos.requires_grad or sin.requires_grad:  # such as learned angles
        return modeling_llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _Rotate.apply(q, cos, sin), _Rotate.apply(k, cos, sin)


class _Rotate(torch.autograd.Function):
    """With halves x₁, x₂: y₁ = x₁ cos₁ - x₂ sin₁ and y₂ = x₂ cos₂ + x₁ sin₂."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.kind = x.dtype
        (x1, x2), (sin1, sin2), out = x.chunk(2, -1), sin.chunk(2, -1), x * cos
        out1, out2 = out.chunk(2, -1)
        out1.addcmul_(x2, sin1, value=-1)
        out2.addcmul_(x1, sin2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (cos, sin), grad = ctx.saved_tensors, grads[0]
        (g1, g2), (sin1, sin2), out = grad.chunk(2, -1), sin.chunk(2, -1), grad * cos
        out1, out2 = out.chunk(2, -1)
        out1.addcmul_(g2, sin2)
        out2.addcmul_(g1, sin1, value=-1)
        return out.to(ctx.kind), None, None
