"""RMSNorms and gated MLPs that pass over their tokens less often and keep less for the backward pass.

A decoder layer of transformers computes its RMSNorms and its SwiGLU by operations that autograd records one by one, and
what is kept of both is a third of a layer's memory. Here each is one function that keeps its inputs alone. Modules are
recognised by what they compute: one is replaced only where it and its replacement give the same for random numbers, and
keeps its name, its weights and what `isinstance` says.

Legend: T tokens, d hidden width, f width of the MLP.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import SiLUActivation

from assent.models.head import is_plain_linear
from assent.models.products import linear, weight_gradient

PROBE_ROWS = 3
ROUNDING = 1e-5
"""Relative. What else a norm might compute (1 + weight, a mean taken off) differs by more than a hundred times that."""


@torch.no_grad()
def install(model: nn.Module) -> None:
    """Replaces `model`'s modules that compute what a class below does; all others are left alone."""
    checked: dict[tuple[type, ...], bool] = {}
    for module in model.modules():
        for lean, computes in ((LeanRMSNorm, _is_rms_norm), (LeanGatedMLP, _is_gated_mlp)):
            if isinstance(module, (LeanRMSNorm, LeanGatedMLP)):
                continue
            kind = (lean, type(module), type(getattr(module, "act_fn", None)))
            if kind not in checked:
                checked[kind] = computes(module)
            if checked[kind]:
                module.__class__ = _classes.setdefault((lean, type(module)), _lean_class(lean, type(module)))


def _lean_class(lean: type, plain: type) -> type:
    return type(plain.__name__, (lean, plain), {"__module__": plain.__module__})


_classes: dict[tuple[type, type], type] = {}


class LeanRMSNorm(nn.Module):
    """Of a model in float32 on a CPU; what else it is given goes to the class that it was."""

    def forward(self, x: Tensor, *others: Any, **keywords: Any) -> Tensor:
        weight: Any = self.weight
        plain = type(weight) in (nn.Parameter, Tensor) and type(x) is Tensor and x.device.type == "cpu"
        if others or keywords or not plain or x.dtype != torch.float32 or weight.dtype != torch.float32:
            found: Tensor = super().forward(x, *others, **keywords)
            return found
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return _RMSNorm.apply(x, weight, _epsilon(self))
        return _normalised(x, weight, _epsilon(self))[0]


class _RMSNorm(torch.autograd.Function):
    """y = w x r with r = (mean x² + ε)^-½: dw = Σ g x r, dx = r (g w) - x r³ (g · w x) / d."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y, scale = _normalised(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, scale), grad = ctx.saved_tensors, grads[0]
        product = grad * x
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            inner = torch.mv(product.flatten(0, -2), weight).view_as(scale)
            grad_x = (grad * weight).mul_(scale).addcmul_(x, scale.pow(3).mul_(inner).div_(-x.shape[-1]))
        if ctx.needs_input_grad[1]:
            grad_weight = product.mul_(scale).flatten(0, -2).sum(0)
        return grad_x, grad_weight, None


def _normalised(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(…, d), (d,) -> (…, d) and the scale of each row (…, 1)."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * scale).mul_(weight), scale


def _epsilon(module: nn.Module) -> Any:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def _is_rms_norm(module: nn.Module) -> bool:
    epsilon, weight = _epsilon(module), dict(module.named_parameters()).get("weight")
    if not isinstance(epsilon, float) or weight is None or weight.ndim != 1 or len(module.state_dict()) != 1:
        return False
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(PROBE_ROWS, len(weight), generator=draw) + 1.0
    drawn = torch.randn(len(weight), generator=draw)
    try:
        found = torch.func.functional_call(module, {"weight": drawn}, (x,))
    except (TypeError, RuntimeError):
        return False
    expected = _normalised(x, drawn, epsilon)[0]
    return isinstance(found, Tensor) and found.dtype == x.dtype and _same(found, expected, ROUNDING)


class LeanGatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)), of which the backward pass computes all but gate(x) and up(x) again."""

    def forward(self, x: Tensor) -> Tensor:
        parts: Any = self
        gate, up, down = parts.gate_proj(x), parts.up_proj(x), parts.down_proj
        plain = is_plain_linear(down)  # without an adapter, say, that has to see what it is given
        found: Tensor = _Gated.apply(gate, up, down.weight, down.bias) if plain else down(F.silu(gate) * up)
        return found


class _Gated(torch.autograd.Function):
    """(…, f), (…, f), (d, f), (d,) -> (…, d), by the operations that autograd would record, in the same types."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kind = gate.device.type
        ctx.cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        ctx.save_for_backward(gate, up, weight)
        with torch.autocast(kind, enabled=False):
            inner = (F.silu(gate) * up).to(ctx.cast)
            return linear(inner, weight.to(ctx.cast), None if bias is None else bias.to(ctx.cast))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gate, up, weight), grad = ctx.saved_tensors, grads[0]
        grad_gate = grad_up = grad_weight = grad_bias = None
        silu = F.silu(gate)
        if ctx.needs_input_grad[2]:
            grad_weight = weight_gradient(grad, (silu * up).to(ctx.cast)).to(weight.dtype)
        if ctx.needs_input_grad[3]:
            grad_bias = grad.flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            inner = linear(grad, weight.to(ctx.cast).t()).to(gate.dtype)
            grad_up = silu.mul_(inner)
            grad_gate = torch.ops.aten.silu_backward(inner.mul_(up), gate)
        return grad_gate, grad_up, grad_weight, grad_bias


def _is_gated_mlp(module: nn.Module) -> bool:
    gate = getattr(module, "gate_proj", None)
    weight, width = getattr(gate, "weight", None), getattr(gate, "in_features", None)
    if not isinstance(getattr(module, "act_fn", None), (nn.SiLU, SiLUActivation)) or width is None:
        return False
    if not isinstance(weight, Tensor) or weight.is_meta or not hasattr(module, "up_proj"):
        return False
    x = torch.randn(PROBE_ROWS, int(width), generator=torch.Generator().manual_seed(0))
    kind = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    try:
        x = x.to(weight.device, kind)
        return _same(module(x), LeanGatedMLP.forward(module, x), 0.0)  # type: ignore[arg-type]
    except (TypeError, RuntimeError, AttributeError):
        return False


def _same(found: Any, expected: Tensor, rounding: float) -> bool:
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= rounding * expected.abs().max())
