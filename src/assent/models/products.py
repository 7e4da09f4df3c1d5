"""float32 matrix products with oneDNN, on the CPUs where torch's own products, with MKL, use half of the machine.

torch multiplies float32 matrices on a CPU with MKL, which has no AVX-512 code for AMD's processors. oneDNN, which torch
includes for other types and for compiled models, has such code. On a Zen 5 it is 2.3 times as fast for the product and
the input's gradient, and 1.7 times for the weight's gradient (`benchmarks/products.py`). Both compute in float32
throughout, but they add in a different order.

The choice depends on the processor only and is never timed: a resumed run must multiply as the killed one did.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from assent.models import half_products

MIN_ROWS, MIN_MULTIPLICATIONS = 4, 2**21
"""Below either of them, the call costs more than it saves."""
CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": 64, "LRU_CACHE_CAPACITY": 64}
"""oneDNN and torch cache 1,024 compiled products by shape, and packed steps rarely have the same shape twice: that took
0.2 GB (float32) to 0.7 GB (bfloat16) without use. These sizes are enough for the layers of one step. The environment is
read at the first product; a variable that the user has set is left alone."""


@cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD x86 processor with AVX-512, and torch has both libraries."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _processor()
    )


def install(model: nn.Module) -> None:
    """Turns the model's linear layers, including adapters', into layers that choose their product.

    Their weights, names and answers to `isinstance` stay the same. Layers of any other class, such as quantised ones,
    are left alone.
    """
    for name, number in CACHES.items():
        os.environ.setdefault(name, str(number))
    for module in model.modules():
        if (other := _CLASSES.get(type(module))) is not None:
            module.__class__ = other


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: (…, K), (N, K), (N,) -> (…, N)."""
    if half_products.serves(x, weight):
        return half_products.linear(x, weight, bias)
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or _needs_gradient(bias)):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        onednn_is_faster()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() >= MIN_ROWS * x.shape[-1]
        and x.numel() * len(weight) >= MIN_MULTIPLICATIONS
        and not torch.is_autocast_enabled("cpu")
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
    )


_PLAIN = (Tensor, nn.Parameter)


def _needs_gradient(bias: Tensor | None) -> bool:
    return bias is not None and bias.requires_grad


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """oneDNN's product. It accepts transposed matrices, but no stride of 0, which the gradient of a sum has."""
    x = x if 0 not in x.stride() else x.contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """(…, N), (…, K) -> (N, K): the gradient of `linear`'s weight, computed directly or transposed, to copy less.

    oneDNN copies its first operand if it is transposed; the accumulation of gradients copies a transposed result.
    """
    rows, inputs = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    if not _suits(rows.t(), inputs.t()):
        return rows.t() @ inputs
    if rows.numel() <= inputs.numel() + rows.shape[1] * inputs.shape[1]:
        return _product(rows.t(), inputs.t())
    return _product(inputs.t(), rows.t()).t()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias).data  # no view, which RoCBert could not add to in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = _product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(grad, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None


class ChoosingLinear(nn.Linear):
    """torch's linear layer, with the product chosen."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class ChoosingConv1D(Conv1D):
    """transformers' layer of GPT-2, with the product chosen. Its weight is the transpose of a linear layer's."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.t(), self.bias)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: ChoosingLinear, Conv1D: ChoosingConv1D}


def _processor() -> str:
    """The system's description of the processor, with its maker."""
    listed = Path("/proc/cpuinfo")
    return listed.read_text(errors="replace") if listed.exists() else platform.processor()
