"""Attention in bfloat16 on a CPU without AMX.

There torch's fused kernel multiplies tiles with one oneDNN call each, and the calls cost more than the products. For
segments of up to about 300 tokens, plain batched products are 1.8 to 4.5 times as fast (`benchmarks/products.py`). They
hold all attention weights of a bucket. The backward pass computes these again, so that memory grows only with tokens.
Where there are too many weights, the fused kernel is used in float32: it is about as fast, and more exact.

Legend: B segments, H query heads, J key heads, Lq queries, Lk keys, D head width.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MAX_WEIGHTS = 2_000_000
"""The largest B · H · Lq · Lk for which weights are held. Beyond it memory traffic and the upper triangle, which the
fused kernel leaves out, cost more than the calls."""


def serves(query: Tensor) -> bool:
    """Whether the fused kernel would compute in bfloat16. Under autocast it does so for any input."""
    if query.device.type != "cpu" or _has_amx():
        return False
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return kind == torch.bfloat16


@cache
def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


@cache
def _multiplies_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def attend(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor, scale: float) -> Tensor:
    """(B, H, Lq, D), (B, J, Lk, D), (B, J, Lk, D') -> (B, H, Lq, D') in bfloat16.

    mask   (B, 1, Lq, Lk) in float32, added to the scores
    """
    if _multiplies_bfloat16() and query.shape[1] * mask.numel() <= MAX_WEIGHTS:
        out: Tensor = _Attention.apply(*(t.to(torch.bfloat16) for t in (query, key, value)), mask, scale)
        return out
    q, k, v = (t.to(mask.dtype) for t in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        rows = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return rows.to(torch.bfloat16)


class _Attention(torch.autograd.Function):
    """Products in bfloat16, sums and softmax in float32. One product computes all query heads of a key head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        of_one_key_head = query.shape[1] // key.shape[1] * query.shape[2]
        q, k, v = query.reshape(-1, of_one_key_head, query.shape[3]), key.flatten(0, 1), value.flatten(0, 1)
        ctx.save_for_backward(q, k, v, mask)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape, value.shape)
        return torch.bmm(_weights(q, k, mask, scale), v).view(*query.shape[:3], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        weights, grad = _weights(q, k, mask, ctx.scale), grads[0].reshape(*q.shape[:2], -1)
        grad_value = torch.bmm(weights.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_query = torch.bmm(grad_scores, k).mul_(ctx.scale)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), q).mul_(ctx.scale)
        parts = zip((grad_query, grad_key, grad_value), ctx.shapes, strict=True)
        return *(part.view(shape) for part, shape in parts), None, None


def _weights(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    """(B·J, H/J·Lq, D), (B·J, Lk, D) -> (B·J, H/J·Lq, Lk)"""
    scores = torch.bmm(q, k.transpose(1, 2))
    by_head = scores.view(mask.shape[0], -1, *mask.shape[2:])
    return torch.add(mask, by_head, alpha=scale).softmax(-1).to(q.dtype).view_as(scores)
