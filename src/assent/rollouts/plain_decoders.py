"""Decoding with the model's own cache and a mask, or without a cache.

Legend: P prompts, S rows (completions in flight), V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

Prompts = Sequence[tuple[int, ...]]


class _Forward:
    """The model's forward, called with the keywords that it accepts."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def __call__(self, ids: Tensor, *, positions: Tensor | None = None, **keywords: Any) -> Tensor:
        if self.takes_positions and positions is not None:
            keywords["position_ids"] = positions
        return self.model(input_ids=ids, **keywords, **self.last_only).logits[:, -1]


class DynamicDecoder:
    """Left-padded rows of one age. Each row's positions count its own tokens."""

    refills = shares_prompts = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.forward, self.device = model, _Forward(model), model.device
        self.tokens = 0

    def admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        self.cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        padding = None if bool(mask.all()) else mask
        logits = self.forward(
            ids, positions=positions, attention_mask=padding, past_key_values=self.cache, use_cache=True
        )
        source = torch.arange(len(repeats)).repeat_interleave(torch.tensor(repeats)).to(self.device)
        self.cache.batch_select_indices(source)
        self.positions = mask.sum(-1)[source][:, None]
        self.mask = torch.nn.functional.pad(mask[source], (0, room), value=1)
        self.length = longest
        self.tokens = self.mask.numel()
        return logits[source]

    def step(self, ids: Tensor) -> Tensor:
        self.length += 1
        mask = self.mask[:, : self.length]
        logits = self.forward(
            ids[:, None], positions=self.positions, attention_mask=mask, past_key_values=self.cache, use_cache=True
        )
        self.positions = self.positions + 1
        return logits

    def logits(self, read: Tensor) -> Tensor:
        return read

    def keep(self, rows: Tensor) -> None:
        if len(rows):
            self.cache.batch_select_indices(rows)
        self.positions, self.mask = self.positions[rows], self.mask[rows]
        self.tokens = self.mask.numel()


class RereadDecoder:
    """Reads unpadded rows only, because models differ in what a recurrent layer does with padding."""

    refills, shares_prompts = True, False

    def __init__(self, model: PreTrainedModel) -> None:
        self.forward, self.device = _Forward(model), model.device
        self.rows: list[Tensor] = []
        self.room = 0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.rows)) + self.room * len(self.rows)

    def admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        self.room = room
        read = [torch.tensor(prompt, device=self.device) for prompt in prompts]
        source = [p for p, count in enumerate(repeats) for _ in range(count)]
        self.rows += [read[p] for p in source]
        return self._read(read)[torch.tensor(source, device=self.device)]

    def step(self, ids: Tensor) -> Tensor:
        self.rows = [torch.cat([row, new]) for row, new in zip(self.rows, ids[:, None], strict=True)]
        return self._read(self.rows)

    def logits(self, read: Tensor) -> Tensor:
        return read

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]

    def _read(self, rows: Sequence[Tensor]) -> Tensor:
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(i)
        parts = [self.forward(torch.stack([rows[i] for i in same]), use_cache=False) for same in by_length.values()]
        order = torch.tensor([i for same in by_length.values() for i in same], device=self.device)
        logits = torch.cat(parts)
        return torch.empty_like(logits).index_copy_(0, order, logits)
