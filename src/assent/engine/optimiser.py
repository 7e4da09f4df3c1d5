"""AdamW (Loshchilov and Hutter, arXiv:1711.05101) and its schedules, each a function of the step."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn


class OptimiserSettings(Protocol):
    """What the engine reads of a configuration: config/options.py has the meanings."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def lr_scheduler_type(self) -> str: ...
    @property
    def warmup_ratio(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def adam_beta1(self) -> float: ...
    @property
    def adam_beta2(self) -> float: ...
    @property
    def adam_epsilon(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def micro_batch_tokens(self) -> int: ...


def make_adamw(module: nn.Module, settings: OptimiserSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, fused; weight decay on matrices, not on biases and norms."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


def learning_rate(step: int, total_steps: int, settings: OptimiserSettings) -> float:
    """Rate of update `step` (from 0) of `total_steps`: transformers' schedules, as functions.

    The warm-up takes ceil(warmup_ratio · total_steps) steps and starts at zero.
    """
    warmup = math.ceil(settings.warmup_ratio * total_steps)
    if step < warmup:
        return settings.learning_rate * step / warmup
    progress = min((step - warmup) / max(1, total_steps - warmup), 1.0)
    match settings.lr_scheduler_type:
        case "constant":
            factor = 1.0
        case "linear":
            factor = 1.0 - progress
        case "cosine":
            factor = 0.5 * (1.0 + math.cos(math.pi * progress))
        case other:
            raise ValueError(f"no schedule {other!r}; there are constant, linear, cosine")
    return settings.learning_rate * factor
