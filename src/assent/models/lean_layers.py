"""RMSNorms and gated MLPs that read their tokens less often and keep less for the backward pass.

A decoder layer of transformers computes its RMSNorms and its SwiGLU with operations that autograd records one by one,
and what it keeps of them is a third of a layer's memory. Here each is one function that keeps only its inputs. A module
is recognised by the code of its `forward`, which in most architectures is Llama's or OLMo 2's. It keeps its name, its
weights and its answer to `isinstance`.

Legend: T tokens, d hidden width, f width of the MLP.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from assent.models.head import has_hooks, is_plain_linear
from assent.models.lean_adapters import LeanLora, Low, is_lora, kind_of
from assent.models.lean_adapters import gradients as lora_gradients
from assent.models.lean_adapters import parts as parts_of_lora
from assent.models.lean_adapters import product as lora_product
from assent.models.lean_rotary import forward_of
from assent.models.products import linear, weight_gradient


def install(model: nn.Module) -> None:
    """Changes the class of the modules that compute what a class below computes. All others are left alone."""
    for module in model.modules():
        if not isinstance(module, _LEAN) and (lean := _lean(module)) is not None:
            module.__class__ = _lean_class(lean, type(module))


def _lean(module: nn.Module) -> type | None:
    if is_lora(module):
        return LeanLora
    if _is_rms_norm(module):
        return LeanRMSNorm
    if _is_gated_mlp(module):
        return LeanGatedMLP
    return LeanRotary if "forward" not in vars(module) and forward_of(type(module)) is not None else None


def _lean_class(lean: type, plain: type) -> Any:
    if (lean, plain) not in _classes:
        members: dict[str, Any] = {"__module__": plain.__module__, "__reduce_ex__": _reduce}
        if lean is LeanRotary:
            members["forward"] = forward_of(plain)
        _classes[lean, plain] = type(plain.__name__, (lean, plain), members)
    return _classes[lean, plain]


def _reduce(module: Any, protocol: Any) -> tuple[Any, ...]:
    """Lets copies and pickles find the class, which no module has under its name."""
    return _blank, type(module).__bases__, vars(module)


def _blank(lean: type, plain: type) -> Any:
    found = _lean_class(lean, plain)
    return found.__new__(found)


_classes: dict[tuple[type, type], Any] = {}


def _has_code_of(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """Whether `forward` is compiled to the same instructions on the same names, and the instance has no own one."""
    return "forward" not in vars(module) and _code(type(module)) in [_code(one) for one in classes]


def _code(kind: type[nn.Module]) -> tuple[Any, ...] | None:
    code = getattr(kind.forward, "__code__", None)
    return code and (code.co_code, code.co_names, code.co_consts[1:], code.co_argcount, code.co_freevars)


class LeanRMSNorm(nn.Module):
    """For float32 on a CPU. Other input goes to the module's original class."""

    def forward(self, x: Tensor, *others: Any, **keywords: Any) -> Tensor:
        own: Any = self
        weight, epsilon = own.weight, own.variance_epsilon
        plain = type(weight) in (nn.Parameter, Tensor) and type(x) is Tensor and x.device.type == "cpu" and x.ndim > 1
        if others or keywords or not plain or x.dtype != torch.float32 or weight.dtype != torch.float32:
            found: Tensor = super().forward(x, *others, **keywords)
            return found
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return _RMSNorm.apply(x, weight, epsilon)
        return _normalised(x, weight, epsilon)[0]


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
    scale = x.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    return (x * scale).mul_(weight), scale


def _is_rms_norm(module: nn.Module) -> bool:
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    return (
        isinstance(weight, Tensor)
        and weight.ndim == 1
        and isinstance(epsilon, float)
        and _has_code_of(module, LlamaRMSNorm, Olmo2RMSNorm)
    )


class LeanGatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)). The backward pass computes everything again except gate(x) and up(x)."""

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self
        gate, up, down = own.gate_proj(x), own.up_proj(x), own.down_proj
        if has_hooks(own.act_fn):
            found: Tensor = down(own.act_fn(gate) * up)
        elif is_plain_linear(down) and not gate.is_meta:
            found = _Gated.apply(gate, up, down.weight, down.bias)
        elif not has_hooks(down) and (low := parts_of_lora(down, gate)) is not None:
            found = _GatedLora.apply(gate, up, *low)
        else:
            found = down(F.silu(gate) * up)  # such as another adapter, which has to see its input
        return found


class _Gated(torch.autograd.Function):
    """(…, f), (…, f), (d, f), (d,) -> (…, d), with the operations that autograd would record, in the same types."""

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


class _GatedLora(torch.autograd.Function):
    """The same where `down` has LoRA. Keeps gate(x), up(x) and the adapter's inner product."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, *parts: Any) -> Tensor:
        given = Low(*parts)
        kind, ctx.kinds, ctx.scale = kind_of(given.weight), (given.a.dtype, given.b.dtype), given.scale
        low = given.to(kind)
        with torch.autocast("cpu", enabled=False):
            out, inner = lora_product((F.silu(gate) * up).to(kind), low)
        ctx.save_for_backward(gate, up, inner, low.weight, low.a, low.b)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, inner, weight, a, b = ctx.saved_tensors
        silu, grad_gate, grad_up = F.silu(gate), None, None
        of_x = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        low = Low(weight, None, a, b, ctx.scale)
        grad, grad_a, grad_b = lora_gradients(grads[0], (silu * up).to(weight.dtype), inner, low, of_x=of_x)
        if grad is not None:
            grad = grad.to(gate.dtype)
            grad_up = silu.mul_(grad)
            grad_gate = torch.ops.aten.silu_backward(grad.mul_(up), gate)
        return grad_gate, grad_up, None, None, grad_a.to(ctx.kinds[0]), grad_b.to(ctx.kinds[1]), None


class LeanRotary(nn.Module):
    """An attention module that rotates with `lean_rotary.rotate`."""


_LEAN = LeanRMSNorm, LeanGatedMLP, LeanLora, LeanRotary


def _is_gated_mlp(module: nn.Module) -> bool:
    return isinstance(getattr(module, "act_fn", None), (nn.SiLU, SiLUActivation)) and _has_code_of(module, LlamaMLP)
