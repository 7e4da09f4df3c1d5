"""float32 matrix products by oneDNN on the CPUs where torch's own, by MKL, leave half of the machine unused.

torch multiplies float32 matrices on a CPU with MKL, which has no AVX-512 code for AMD's processors; oneDNN, which torch
carries for other types and for compiled models, has. On a Zen 5 it is 2.3 times as fast, forward and for the input's
gradient, 1.7 for the weight's (`benchmarks/products.py`). Both are float32 throughout; they add in another order.

The choice follows from the processor alone and is never timed: a resumed run must multiply as the killed one did.
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
"""Below either the call costs more than it saves."""
CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": 64, "LRU_CACHE_CAPACITY": 64}
"""oneDNN and torch keep compiled products by shape, 1,024 of them, and packed steps hardly ever have the same shape
twice: that was 0.2 GB (float32) to 0.7 GB (bfloat16) which nothing read. These are enough for the layers of one step.
They are read from the environment at the first product; one that the user has set is left alone."""


@cache
def onednn_is_faster() -> bool:
    """Whether this is an x86 processor of AMD with AVX-512, and torch has both libraries."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _processor()
    )


def install(model: nn.Module) -> None:
    """Turns the model's linear layers, adapters' among them, into layers that choose their product.

    Weights, names and what `isinstance` says stay as they were. Layers of any other class (quantised ones, say) are
    left alone.
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
    """Takes transposed matrices as they lie, but no stride of 0, as the gradient of a sum has."""
    x = x if 0 not in x.stride() else x.contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """(…, N), (…, K) -> (N, K): that of `linear`'s weight, as it lies in memory or transposed, whichever copies less.

    oneDNN copies its first operand where that is transposed, and the accumulation of gradients what is transposed.
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
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = _product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(grad, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None


class ChoosingLinear(nn.Linear):
    """torch's, with the product chosen."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class ChoosingConv1D(Conv1D):
    """transformers' (GPT-2's), with the product chosen: its weight is the transpose of a linear layer's."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.t(), self.bias)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: ChoosingLinear, Conv1D: ChoosingConv1D}


def _processor() -> str:
    """What the system calls the processor, its maker included."""
    listed = Path("/proc/cpuinfo")
    return listed.read_text(errors="replace") if listed.exists() else platform.processor()
