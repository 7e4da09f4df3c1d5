"""Log-probabilities of given tokens from hidden states, holding the logits of only one chunk at a time.

Legend: N tokens, d hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from assent.models.products import ChoosingLinear, linear

CPU_CHUNK_BYTES = 8 * 2**20
"""Bytes of one chunk's logits in float32. On a CPU each allocation above 32 MiB is mapped anew, which made the softmax
4 times and the product 1.3 times slower (measured at 1024 tokens and a vocabulary of 8192)."""
DEVICE_CHUNK_BYTES = 256 * 2**20
MIN_CHUNK_TOKENS = 64
"""With fewer rows, matrix products lose more than the saved memory is worth."""


@dataclass(frozen=True, slots=True)
class Logits:
    """How a model turns its head's output z into logits: softcap · tanh(z · scale / softcap) / temperature."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    @staticmethod
    def of(config: Any, *, temperature: float = 1.0) -> Logits:
        """The values that the configuration declares (Cohere's scale, Granite's divisor, Gemma's cap). The probe checks
        them."""
        config = config.get_text_config()
        scale = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        softcap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
        return Logits(float(scale / divisor), softcap, temperature)

    def apply(self, z: Tensor) -> Tensor:
        """The logits of z, in float32 or wider."""
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        if self.softcap is not None:
            return torch.tanh(z * (self.scale / self.softcap)) * (self.softcap / self.temperature)
        factor = self.scale / self.temperature
        return z if factor == 1.0 else z * factor


def log_probabilities(
    head: nn.Module, hidden: Tensor, targets: Tensor, *, logits: Logits, want_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(N, d), (N,) -> log-probability (N,) of each target and, if wanted, the distribution's entropy in nats (N,).

    A plain linear head goes through one function that recomputes each chunk's logits in the backward pass. A head with
    adapters, hooks or of another type is called as a module, in checkpointed chunks. Both compute in float32.
    """
    if is_plain_linear(head):
        logp, entropy = _LinearLogProbs.apply(hidden, head.weight, head.bias, targets, logits, want_entropy)
        return logp, entropy if want_entropy else None
    size = chunk_size(getattr(head, "out_features", None) or 2**17, hidden.device)
    logps, entropies = [], []
    for h, t in zip(hidden.split(size), targets.split(size), strict=True):
        if torch.is_grad_enabled():
            logp, entropy = checkpoint(_of_chunk, head, h, t, logits, want_entropy, use_reentrant=False)
        else:
            logp, entropy = _of_chunk(head, h, t, logits, want_entropy)
        logps.append(logp)
        entropies.append(entropy)
    return torch.cat(logps), torch.cat(entropies) if want_entropy else None


def is_plain_linear(head: nn.Module) -> bool:
    """Whether `weight` and `bias` say all that the module computes: it has no adapter, hook, sharding or subclass."""
    plain = type(head) in (nn.Linear, ChoosingLinear) and type(head.weight) in (nn.Parameter, Tensor)
    return plain and not has_hooks(head)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module does more than its `forward`."""
    own = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(own)


def chunk_size(vocabulary: int, device: torch.device) -> int:
    """The number of tokens in a chunk."""
    limit = CPU_CHUNK_BYTES if device.type == "cpu" else DEVICE_CHUNK_BYTES
    return max(MIN_CHUNK_TOKENS, limit // (4 * vocabulary))


def _of_chunk(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, logits: Logits, want_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    logp = logits.apply(head(hidden)).log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1) if want_entropy else None
    return logp.gather(1, targets[:, None])[:, 0], entropy


class _LinearLogProbs(torch.autograd.Function):
    """d logp[t] / dz = onehot(t) - p and d entropy / dz = -p (log p + entropy), chunk by chunk. No logits are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        logits: Logits,
        want_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        # Autocast is off in the backward of an autograd function, so the type is decided once, here, for both passes.
        kind = hidden.device.type
        cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.logits, ctx.want_entropy, ctx.cast = logits, want_entropy, cast
        wide = torch.promote_types(cast, torch.float32)
        logp = hidden.new_empty(len(hidden), dtype=wide)
        entropy = hidden.new_empty(len(hidden) if want_entropy else 0, dtype=wide)
        with torch.autocast(kind, enabled=False):
            w, b = weight.to(cast), None if bias is None else bias.to(cast)
            for part in _chunks(hidden, vocabulary=len(weight)):
                z = logits.apply(linear(hidden[part].to(cast), w, b))
                log_p = z.log_softmax(-1)
                logp[part] = log_p.gather(1, targets[part, None])[:, 0]
                if want_entropy:
                    entropy[part] = -torch.linalg.vecdot(log_p.exp(), log_p)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        logits, cast = ctx.logits, ctx.cast
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        w, b = weight.to(cast), None if bias is None else bias.to(cast)
        for part in _chunks(hidden, vocabulary=len(weight)):
            h = hidden[part].to(cast)
            raw = linear(h, w, b)
            z = logits.apply(raw)
            grad = _grad_logits(z, targets[part], grads[0][part], grads[1][part] if ctx.want_entropy else None)
            if logits.softcap is not None:  # z is softcap/temperature · tanh(…)
                grad *= 1 - (z * (logits.temperature / logits.softcap)).square_()
            if (factor := logits.scale / logits.temperature) != 1.0:
                grad *= factor
            grad = grad.to(cast)
            if grad_hidden is not None:
                grad_hidden[part] = linear(grad, w.t())
            if grad_weight is not None:
                grad_weight.add_(linear(grad.t(), h.t()))
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _grad_logits(z: Tensor, targets: Tensor, grad_logp: Tensor, grad_entropy: Tensor | None) -> Tensor:
    """(n, V) gradient with respect to the logits (after scale, soft-cap and temperature)."""
    if grad_entropy is None:
        grad = z.softmax(-1).mul_(-grad_logp[:, None])
    else:
        log_p = z.log_softmax(-1)
        p = log_p.exp()
        entropy = -torch.linalg.vecdot(p, log_p)[:, None]
        grad = p.mul_(-(grad_logp[:, None] + grad_entropy[:, None] * (log_p + entropy)))
    return grad.scatter_add_(1, targets[:, None], grad_logp[:, None].to(grad.dtype))


def _chunks(hidden: Tensor, *, vocabulary: int) -> list[slice]:
    number, size = len(hidden), chunk_size(vocabulary, hidden.device)
    return [slice(start, min(start + size, number)) for start in range(0, number, size)]
