"""`RowChoice` as a logits processor of vLLM. This file is imported only if vLLM is installed."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from assent.rollouts.row_choice import RowChoice

KEY = "assent"
"""The key of a request's Draw in its `extra_args`."""


class Choice(LogitsProcessor):
    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self.choice = RowChoice()

    def is_argmax_invariant(self) -> bool:
        return False  # so that vLLM also calls it for greedy decoding, which then takes the token chosen here

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        self.choice.change(
            removed=batch_update.removed,
            added=[(row, (params.extra_args or {})[KEY], tokens) for row, params, _, tokens in batch_update.added],
            moved=[(a, b, way == MoveDirectionality.SWAP) for a, b, way in batch_update.moved],
        )

    def apply(self, logits: Tensor) -> Tensor:
        return self.choice.choose(logits)
