"""Linear layers under autocast that share one cast of their input.

torch's autocast casts the input of each linear layer again, and each layer keeps its own copy for the backward pass:
three of one tensor for queries, keys and values, two for a gated MLP. Here all layers that read a tensor share the
first layer's cast, for as long as a backward pass needs it. Values and gradients are those of autocast: each layer's
gradient is in the input's own type, and the gradients are added in that type.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.weak import TensorWeakRef

_CAST = "_assent_cast"
"""The tensor's attribute with its version and a weak reference to the cast."""


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether autocast would cast `x` for a product whose backward pass needs it."""
    kind = x.device.type
    return (
        torch.is_autocast_enabled(kind)
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and weight.requires_grad
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and not x.is_inference()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` under autocast: (…, K), (N, K), (N,) -> (…, N) in autocast's type."""
    kind = torch.get_autocast_dtype(x.device.type)
    out: Tensor = _Linear.apply(x, cast(x, kind), weight.to(kind), None if bias is None else bias.to(kind))
    return out


def cast(x: Tensor, kind: torch.dtype) -> Tensor:
    """`x` in the type `kind`; layers that read the same tensor share one cast."""
    if x.dtype == kind:
        return x
    if x.is_inference():  # it has no version
        return x.to(kind)
    version, kept = getattr(x, _CAST, (-1, None))
    made: Tensor | None = kept and kept()
    if made is None or version != x._version or made.dtype != kind:
        made = x.detach().to(kind)
        setattr(x, _CAST, (x._version, TensorWeakRef(made)))
    return made


class _Linear(torch.autograd.Function):
    """`x` is an argument only for its gradient; the function reads and keeps `half`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, half: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(half, weight)
        ctx.kind = x.dtype
        return F.linear(half, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (half, weight), grad = ctx.saved_tensors, grads[0]
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = (grad @ weight).to(ctx.kind) if ctx.needs_input_grad[0] else None
        grad_weight = rows.t() @ half.reshape(-1, half.shape[-1]) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_weight, rows.sum(0) if ctx.needs_input_grad[3] else None
