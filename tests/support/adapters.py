"""Adapters that change something, for tests."""

from __future__ import annotations

from typing import Any

import torch

from assent.config.options import AdapterOptions
from assent.models.adapters import Base, add_adapter


def options(**given: Any) -> AdapterOptions:
    return AdapterOptions(**{"lora_r": 3, **given})


def adapted(model: Any, *, base: str = "base", seed: int = 0, new_rows: bool = False, **given: Any) -> Any:
    """`model` with an adapter whose every weight is random: a fresh one changes nothing yet."""
    result = add_adapter(model, options(**given), base=Base(base), seed=seed, new_rows=new_rows)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in result.named_parameters():
            if weight.requires_grad:
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise * (0.3 if "lora_B" in name else 0.02))
    return result
