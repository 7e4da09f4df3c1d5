"""AdamW with 8-bit moments in blocks (Dettmers et al., arXiv:2110.02861): bitsandbytes' class, its state named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn

_CONSTANT = frozenset({"qmap1", "qmap2"})
"""Tables that say what an 8-bit number stands for. They are the same in every run."""


class AdamW8bit(bitsandbytes.optim.AdamW8bit):
    """Two bytes of state for each weight, not AdamW's eight. Tensors of fewer than 4,096 weights keep 32 bits."""

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        # Allocate the moments now, so that the first step cannot run out of memory halfway through its parameters.
        self.check_overrides()
        for i, group in enumerate(self.param_groups):
            for j, parameter in enumerate(group["params"]):
                self.init_state(group, parameter, i, j)
        self.initialized = True
        self._steps: dict[nn.Parameter, Tensor] = {}

    def named_state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """`state1/<name>` and so on. bitsandbytes' step counts, plain numbers, become tensors."""
        named: dict[str, Tensor] = {}
        for parameter, name in names.items():
            state = self.state[parameter]
            self._steps[parameter] = named[f"step/{name}"] = torch.tensor(state["step"])
            kept = state.keys() - _CONSTANT
            named |= {f"{key}/{name}": state[key] for key in sorted(kept) if isinstance(state[key], Tensor)}
        return named

    def loaded(self) -> None:
        """Turns step counts into numbers again."""
        for parameter, steps in self._steps.items():
            self.state[parameter]["step"] = int(steps)
