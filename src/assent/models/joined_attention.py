"""Attention over keys in two parts with torch's fused CPU kernel. The parts are joined by the normalisers of their
softmaxes (Milakov & Gimelshein 2018, arXiv:1805.02867, eq. 4).

In one call, a segment with a prefix is a masked rectangle of queries and keys, which the kernel computes in full. In
two calls, the prefix needs no mask except for padding, and the segment's own tokens are plainly causal, so the kernel
leaves out the blocks of keys above the diagonal.

Legend: B segments, H query heads, J key heads, Lq queries, Lk keys, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

KEY_BLOCK = 512
"""The number of keys that torch's kernel computes or leaves out together (kvSplitSize, FlashAttentionKernel.cpp)."""

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def serves(query: Tensor, value: Tensor) -> bool:
    """Whether the tensors are on a CPU, in float32 or wider (the parts are joined in that type), of one head width."""
    is_wide = query.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return is_wide and query.device.type == "cpu" and query.shape[-1] == value.shape[-1]


def attend(query: Tensor, key: Tensor, value: Tensor, *, prefix: int, bias: Tensor | None, scale: float) -> Tensor:
    """(B, H, Lq, D), (B, J, prefix + Lq, D) twice -> (B, H, Lq, D)

    prefix   the number of first keys, which every query sees; query i also sees the first i + 1 of the other keys
    bias     (B, 1, 1, prefix), added to the prefix's scores (-inf for padding)
    """
    rows: Tensor = _Joined.apply(query, key, value, prefix, bias, scale)
    return rows


class _Joined(torch.autograd.Function):
    """The kernel's backward pass computes softmax weights again from the normaliser that it is given. Given the joint
    one, they are the weights over all keys, so that each part's gradients are those of the whole."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prefix: int, bias: Tensor | None, scale: float
    ) -> Tensor:
        (key_p, key_o), (value_p, value_o) = (x.split([prefix, x.shape[2] - prefix], dim=2) for x in (key, value))
        seen, seen_total = _fused(query, key_p, value_p, attn_mask=bias, scale=scale)
        own, own_total = _fused(query, key_o, value_o, is_causal=True, scale=scale)
        out = own.lerp_(seen, torch.sigmoid(seen_total - own_total).unsqueeze(-1))
        ctx.save_for_backward(query, key, value, out, torch.logaddexp(seen_total, own_total), bias)
        ctx.prefix, ctx.scale = prefix, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total, bias = ctx.saved_tensors
        (key_p, key_o), (value_p, value_o) = (
            x.split([ctx.prefix, x.shape[2] - ctx.prefix], dim=2) for x in (key, value)
        )
        shared = out, total, 0.0
        seen = _fused_backward(grads[0], query, key_p, value_p, *shared, False, attn_mask=bias, scale=ctx.scale)
        own = _fused_backward(grads[0], query, key_o, value_o, *shared, True, scale=ctx.scale)
        key_grad, value_grad = (torch.cat([a, b], dim=2) for a, b in zip(seen[1:], own[1:], strict=True))
        return seen[0].add_(own[0]), key_grad, value_grad, None, None, None
