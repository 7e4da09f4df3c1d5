"""AdamW with moments of 8 bits in blocks (Dettmers et al., arXiv:2110.02861): bitsandbytes', with names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn

_CONSTANT = frozenset({"qmap1", "qmap2"})
"""Tables of what an 8-bit number means: the same for every run."""


class AdamW8bit(bitsandbytes.optim.AdamW8bit):
    """Two bytes of state for a weight where AdamW has eight. Tensors of fewer than 4,096 weights keep 32 bits."""

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        # The moments' memory is taken at once, so that the first step cannot fail halfway through its parameters.
        self.check_overrides()
        for i, group in enumerate(self.param_groups):
            for j, parameter in enumerate(group["params"]):
                self.init_state(group, parameter, i, j)
        self.initialized = True
        self._steps: dict[nn.Parameter, Tensor] = {}

    def named_state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """`state1/<name>` and so on; steps, which bitsandbytes counts as numbers, as tensors."""
        named: dict[str, Tensor] = {}
        for parameter, name in names.items():
            state = self.state[parameter]
            self._steps[parameter] = named[f"step/{name}"] = torch.tensor(state["step"])
            kept = state.keys() - _CONSTANT
            named |= {f"{key}/{name}": state[key] for key in sorted(kept) if isinstance(state[key], Tensor)}
        return named

    def loaded(self) -> None:
        """Steps become numbers again."""
        for parameter, steps in self._steps.items():
            self.state[parameter]["step"] = int(steps)
