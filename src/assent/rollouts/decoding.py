"""Three ways to decode with any causal model of transformers, and the probe that decides which one a model gets.

buffer    full attention in every layer: keys and values go into buffers of the final length, the mask is built once
dynamic   the model's own DynamicCache (sliding windows) and a 2-D mask
reread    no cache: every step reads the whole row again, rows of one length together (recurrent and hybrid models)

Legend: P prompts, S rows (completions in flight), V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

Prompts = Sequence[tuple[int, ...]]
CPU_PREFILL_TOKENS = 1024


class Decoder(Protocol):
    """One batch in flight."""

    def prefill(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        """Reads each prompt once, makes repeats[p] rows of it with room for `room` tokens; next-token logits (S, V)."""

    def step(self, ids: Tensor) -> Tensor:
        """Appends ids (S,) to the rows; next-token logits (S, V)."""

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these, ascending."""


class _Forward:
    """The model's forward with the keywords it takes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def __call__(self, ids: Tensor, *, positions: Tensor | None = None, **keywords: Any) -> Tensor:
        if self.takes_positions and positions is not None:
            keywords["position_ids"] = positions
        return self.model(input_ids=ids, **keywords, **self.last_only).logits[:, -1]


class _BufferLayer(DynamicLayer):
    """Keys and values in a buffer of the final length: an append is a copy of one token, not of the whole cache."""

    def fill(self, states: tuple[Any, Any], source: Tensor, rows: int, longest: int, room: int) -> None:
        """The next len(source) of `rows` rows begin as rows `source` of keys and values (P, heads, length, size)."""
        length, count = states[0].shape[2], len(source)
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = states[0].dtype, states[0].device, True
            self.filled, self.length = 0, longest
            # zeros: what stands left of a short prompt is masked, but zero times NaN is NaN
            self.buffers = [x.new_zeros(rows, x.shape[1], longest + room, x.shape[3]) for x in states]
        for buffer, x in zip(self.buffers, states, strict=True):
            target = buffer[self.filled : self.filled + count, :, longest - length : longest]
            target.copy_(x if count == len(x) else x.index_select(0, source))
        self.filled += count
        self._show()

    def get_seq_length(self) -> int:
        return self.length

    def _show(self) -> None:
        keys, values = self.buffers
        self.keys, self.values = keys[:, :, : self.length], values[:, :, : self.length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.length += 1
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.length - 1 : self.length].copy_(states)
        self._show()
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def keep(self, rows: Tensor) -> None:
        for i, buffer in enumerate(self.buffers):
            filled = buffer[:, :, : self.length]
            filled[: len(rows)] = filled[rows]
            self.buffers[i] = buffer[: len(rows)]
        self._show()


class _CachedDecoder:
    """Left-padded rows; each row's positions count its own tokens."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.forward, self.device = model, _Forward(model), model.device

    def _read_prompts(self, prompts: Prompts) -> tuple[Tensor, Tensor, DynamicCache]:
        """Logits (P, V), mask (P, longest), the cache."""
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        padding = None if bool(mask.all()) else mask
        logits = self.forward(ids, positions=positions, attention_mask=padding, past_key_values=cache, use_cache=True)
        return logits, mask, cache

    def _sources(self, repeats: Sequence[int]) -> Tensor:
        counts = torch.tensor(repeats, device=self.device)
        return torch.arange(len(repeats), device=self.device).repeat_interleave(counts)


class BufferDecoder(_CachedDecoder):
    def prefill(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        rows, longest = sum(repeats), max(len(prompt) for prompt in prompts)
        self.cache, self.layers = DynamicCache(), list[_BufferLayer]()
        logits = []
        for chunk in self._chunks(prompts):
            source = self._sources(repeats[chunk])
            read, _, prompt_cache = self._read_prompts(prompts[chunk])
            for i, prompt_layer in enumerate(prompt_cache.layers):
                if type(prompt_layer) is not DynamicLayer:
                    raise TypeError(f"a {type(prompt_layer).__name__} is not full attention")
                if i == len(self.layers):
                    self.layers.append(_BufferLayer())
                self.layers[i].fill((prompt_layer.keys, prompt_layer.values), source, rows, longest, room)
            logits.append(read[source])
        self.cache.layers = list(self.layers)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)[self._sources(repeats)]
        self.positions = lengths[:, None]
        closed = torch.arange(longest + room, device=self.device) < longest - lengths[:, None]
        dtype = self.model.dtype
        self.bias = torch.where(closed, torch.finfo(dtype).min, 0.0).to(dtype)[:, None, None, :]
        self.length = longest
        return torch.cat(logits)

    def _chunks(self, prompts: Prompts) -> list[slice]:
        """Neighbours, read together; on CPU few at a time, so that activations stay in its cache."""
        limit = CPU_PREFILL_TOKENS if self.device.type == "cpu" else sum(map(len, prompts))
        chunks, start = [], 0
        for end in range(1, len(prompts) + 1):
            if end == len(prompts) or (end + 1 - start) * max(map(len, prompts[start : end + 1])) > limit:
                chunks.append(slice(start, end))
                start = end
        return chunks

    def step(self, ids: Tensor) -> Tensor:
        self.length += 1
        bias = self.bias[..., : self.length]
        logits = self.forward(
            ids[:, None], positions=self.positions, attention_mask=bias, past_key_values=self.cache, use_cache=True
        )
        self.positions = self.positions + 1
        return logits

    def keep(self, rows: Tensor) -> None:
        for layer in self.layers:
            layer.keep(rows)
        self.positions, self.bias = self.positions[rows], self.bias[rows]


class DynamicDecoder(_CachedDecoder):
    def prefill(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        logits, mask, self.cache = self._read_prompts(prompts)
        source = self._sources(repeats)
        self.cache.batch_select_indices(source)
        self.positions = mask.sum(-1)[source][:, None]
        self.mask = torch.nn.functional.pad(mask[source], (0, room), value=1)
        self.length = mask.shape[1]
        return logits[source]

    def step(self, ids: Tensor) -> Tensor:
        self.length += 1
        mask = self.mask[:, : self.length]
        logits = self.forward(
            ids[:, None], positions=self.positions, attention_mask=mask, past_key_values=self.cache, use_cache=True
        )
        self.positions = self.positions + 1
        return logits

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.positions, self.mask = self.positions[rows], self.mask[rows]


class RereadDecoder:
    """No padding anywhere: what a recurrent layer does with it differs from model to model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.forward, self.device = _Forward(model), model.device

    def prefill(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        once = self._read([torch.tensor(prompt, device=self.device) for prompt in prompts])
        source = [p for p, count in enumerate(repeats) for _ in range(count)]
        self.rows = [torch.tensor(prompts[p], device=self.device) for p in source]
        return once[torch.tensor(source, device=self.device)]

    def step(self, ids: Tensor) -> Tensor:
        self.rows = [torch.cat([row, new]) for row, new in zip(self.rows, ids[:, None], strict=True)]
        return self._read(self.rows)

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


DECODERS: dict[str, type[BufferDecoder] | type[DynamicDecoder] | type[RereadDecoder]] = {
    "buffer": BufferDecoder,
    "dynamic": DynamicDecoder,
    "reread": RereadDecoder,
}

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference in log-probability that counts as the same."""


@torch.no_grad()
def probe(model: PreTrainedModel) -> tuple[str, str]:
    """The fastest way that gives the numbers of plain, unpadded reads, and why the faster ones do not."""
    size = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    prompts = [tuple((7 * i + 3) % size for i in range(11)), tuple((5 * i + 1) % size for i in range(4))]
    appended = [(2 + 11 * t) % size for t in range(3)]
    expected = _decode(RereadDecoder(model), prompts, appended)
    reasons = []
    for name in ("buffer", "dynamic"):
        try:
            difference = float((_decode(DECODERS[name](model), prompts, appended) - expected).abs().max())
        except Exception as error:  # whatever a model raises on what it does not support is a "no"
            reasons.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        if difference <= _TOLERANCE.get(expected.dtype, 1e-1):
            return name, "; ".join(reasons) or "fastest"
        reasons.append(f"{name}: differs by {difference:.2g} in log-probability from a plain read")
    return "reread", "; ".join(reasons)


def _decode(decoder: Decoder, prompts: Prompts, appended: Sequence[int]) -> Tensor:
    """Log-probabilities of a short decode that expands the prompts unevenly, and drops a row."""
    read = [decoder.prefill(prompts, [2, 1], len(appended))]
    device = read[0].device
    for t, token in enumerate(appended):
        if t == 2:
            decoder.keep(torch.tensor([0, 2], device=device))
        read.append(decoder.step(torch.full((3 if t < 2 else 2,), token, device=device)))
    return torch.cat([logits.log_softmax(-1) for logits in read])
