"""AdamW (Loshchilov and Hutter, arXiv:1711.05101) and its schedules, each a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from assent.models.adapters import is_adapted


class OptimiserSettings(Protocol):
    """The options that the engine reads; config/options.py says what they mean."""

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
    @property
    def master_weights(self) -> bool: ...
    @property
    def optim(self) -> str: ...


class Optimiser(Protocol):
    """What the learner needs from AdamW, however AdamW holds its state."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def named_state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """The state of the parameters in `names`, as tensors into which a checkpoint may be loaded."""
        ...

    def loaded(self) -> None:
        """Called when the tensors of `named_state` have new values."""


class MasterAdamW(torch.optim.AdamW):
    """AdamW that steps float32 copies of low-precision parameters, and rounds the copies into the parameters.

    A bfloat16 weight has 8 significant bits: every update below 1/512 of the weight would be lost.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, masters: Mapping[nn.Parameter, nn.Parameter], **options: Any
    ) -> None:
        super().__init__(groups, **options)
        self.masters = masters
        """The copy of each such parameter. The optimiser's own parameters and state belong to the copies."""
        # Allocate the moments now, so that the first step cannot run out of memory halfway through its parameters.
        for parameter in (p for group in self.param_groups for p in group["params"]):
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }

    def named_state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """`exp_avg/<name>` and so on, and `master/<name>` for a parameter with a copy."""
        named: dict[str, Tensor] = {}
        for parameter, name in names.items():
            stepped = self.masters.get(parameter, parameter)
            named |= {f"{moment}/{name}": value for moment, value in self.state[stepped].items()}
            named |= {} if stepped is parameter else {f"master/{name}": stepped}
        return named

    def loaded(self) -> None:
        """Nothing to do: the tensors are the state itself."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter, master in self.masters.items():
            master.grad = None if parameter.grad is None else parameter.grad.float()
        super().step(closure)
        for parameter, master in self.masters.items():
            parameter.copy_(master)
            master.grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for parameter in self.masters:
            parameter.grad = None


def make_adamw(module: nn.Module, settings: OptimiserSettings) -> Optimiser:
    """AdamW over the trainable parameters, fused or with 8-bit moments. Matrices decay, biases and norms do not.

    A head or an embedding that is trained beside an adapter is held in float32, as the adapter is.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    low = [p for p in trainable if p.dtype in (torch.bfloat16, torch.float16)]
    masters = {p: nn.Parameter(p.detach().float()) for p in low if settings.master_weights or is_adapted(module)}
    stepped = [masters.get(p, p) for p in trainable]
    groups = [
        {"params": [p for p in stepped if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in stepped if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
    }
    if settings.optim == "adamw_8bit":
        from assent.engine.optimiser_8bit import AdamW8bit  # bitsandbytes is optional

        return AdamW8bit(groups, **options)
    return MasterAdamW(groups, masters=masters, **options, fused=True)


def learning_rate(step: int, total_steps: int, settings: OptimiserSettings) -> float:
    """The rate of update `step` (counted from 0) of `total_steps`, by the same schedules as in transformers.

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
            raise ValueError(f"unknown schedule {other!r}; the schedules are constant, linear, cosine")
    return settings.learning_rate * factor
