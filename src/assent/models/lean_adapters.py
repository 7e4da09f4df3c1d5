"""LoRA on a linear layer as one function (Hu et al., arXiv:2106.09685, eq. 3): y = x Wᵀ + s (x Aᵀ) Bᵀ.

PEFT computes it with operations that autograd records one by one: the scaled product and the sum are written out, and
the gradients of both branches are added. Here the branch is added in place to the base's product, forward and
backward, and nothing is kept but x, x Aᵀ and the weights.

Legend: N tokens, K inputs, O outputs, r rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from assent.models.half_products import cast
from assent.models.head import has_hooks, is_plain_linear
from assent.models.products import linear, weight_gradient


class Low(NamedTuple):
    """The parts of a layer with LoRA. `scale`: lora_alpha / r."""

    weight: Tensor  # (O, K), frozen
    bias: Tensor | None  # (O,), frozen
    a: Tensor  # (r, K)
    b: Tensor  # (O, r)
    scale: float

    def to(self, kind: torch.dtype) -> Low:
        bias = None if self.bias is None else self.bias.to(kind)
        return Low(self.weight.to(kind), bias, self.a.to(kind), self.b.to(kind), self.scale)


def is_lora(module: nn.Module) -> bool:
    """Whether this is PEFT's class for a linear layer with LoRA. It goes by name, so that PEFT is not loaded here."""
    return (type(module).__module__, type(module).__name__) == ("peft.tuners.lora.layer", "Linear")


def parts(module: Any, x: Tensor) -> Low | None:
    """The parts, if they are all that the module computes for `x`: on a CPU, one adapter in use, the base frozen."""
    if x.device.type != "cpu" or type(x) is not Tensor or not isinstance(module, LeanLora):
        return None
    own: Any = module
    base, active = own.base_layer, own.active_adapters
    if own.disable_adapters or own.merged or len(active) != 1 or active[0] not in own.lora_A or own.lora_variant:
        return None
    a, b = own.lora_A[active[0]], own.lora_B[active[0]]
    dropout = own.lora_dropout[active[0]]
    is_known = all(map(is_plain_linear, (base, a, b))) and type(dropout) is nn.Identity and not has_hooks(dropout)
    if not is_known or a.bias is not None or b.bias is not None or base.weight.requires_grad:
        return None
    if base.bias is not None and base.bias.requires_grad:
        return None
    if len({x.dtype, base.weight.dtype, a.weight.dtype, b.weight.dtype}) > 1 and not torch.is_autocast_enabled("cpu"):
        return None
    return Low(base.weight, base.bias, a.weight, b.weight, own.scaling[active[0]])


class LeanLora(nn.Module):
    """For plain LoRA on a CPU. All else, such as DoRA, goes to the module's original class."""

    def forward(self, x: Tensor, *others: Any, **keywords: Any) -> Tensor:
        low = None if others or keywords else parts(self, x)
        found: Tensor = super().forward(x, *others, **keywords) if low is None else _Lora.apply(x, *low)
        return found


def kind_of(weight: Tensor) -> torch.dtype:
    """The type that products are computed in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype


def product(x: Tensor, low: Low) -> tuple[Tensor, Tensor]:
    """(…, K) -> (…, O) and x Aᵀ (…, r), all of one type."""
    out, inner = linear(x, low.weight, low.bias), linear(x, low.a)
    out.view(-1, out.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), low.b.t(), alpha=low.scale)
    return out, inner


def gradients(grad: Tensor, x: Tensor, inner: Tensor, low: Low, *, of_x: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """(…, O), (…, K), (…, r) -> the gradients of x (…, K), if wanted, of A (r, K) and of B (O, r)."""
    grad_inner = linear(grad, low.b.t()).mul_(low.scale)
    grad_a = weight_gradient(grad_inner, x)
    grad_b = weight_gradient(grad, inner).mul_(low.scale)
    grad_x = None
    if of_x:
        grad_x = linear(grad, low.weight.t())
        grad_x.view(-1, x.shape[-1]).addmm_(grad_inner.view(-1, inner.shape[-1]), low.a)
    return grad_x, grad_a, grad_b


class _Lora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> Tensor:
        given = Low(*parts)
        kind, ctx.kinds, ctx.scale = kind_of(given.weight), (x.dtype, given.a.dtype, given.b.dtype), given.scale
        low = given.to(kind)
        with torch.autocast("cpu", enabled=False):
            x = cast(x, kind)
            out, inner = product(x, low)
        ctx.save_for_backward(x, inner, low.weight, low.a, low.b)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, weight, a, b = ctx.saved_tensors
        low = Low(weight, None, a, b, ctx.scale)
        found = gradients(grads[0], x, inner, low, of_x=ctx.needs_input_grad[0])
        grad_x, grad_a, grad_b = (None if g is None else g.to(k) for g, k in zip(found, ctx.kinds, strict=True))
        return grad_x, None, None, grad_a, grad_b, None
