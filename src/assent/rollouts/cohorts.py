"""Rows in flight and their attention: a prompt's keys and values stand once and all its completions attend to them.

Rows that were admitted together, to prompts of like lengths, are a cohort: they are of one age, so their own keys and
values stand in buffers without padding or mask, allocated once for the longest completion. Attention to the prompt and
to the row's own tokens are joined by the normalisers of their softmaxes (Milakov & Gimelshein 2018, arXiv:1805.02867,
eq. 4).

Legend: P prompts, S rows of a cohort, N rows of all, J key heads, R query heads per key head, D head width, L longest
prompt, C room for own tokens, t tokens of its own that a row has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from assent.models.attention import Options, unsupported
from assent.models.attention import attention as over_segments
from assent.models.segments import Segments

NAME = "assent_cohorts"
"""Name of the attention function, and of the keyword that carries the flight."""


@dataclass(slots=True)
class Layer:
    """One layer's keys and values of a cohort; the prompts' keys stand transposed, as the product wants them."""

    prompt_keys: Tensor  # (P, J, D, L)
    prompt_values: Tensor  # (P, J, L, D')
    own_keys: Tensor  # (S, J, C, D)
    own_values: Tensor  # (S, J, C, D')


@dataclass(slots=True)
class Cohort:
    """`of` (S,) ascending: the prompt of each row. `lengths` (P,): of the prompts."""

    lengths: Tensor
    of: Tensor
    room: int
    age: int = 0
    layers: list[Layer] = field(default_factory=list)
    # rows in a rectangle of (P, K): `slots` (P·K,) the row of each place, `place` (S,) its inverse; None: they are one
    slots: Tensor | None = None
    place: Tensor | None = None
    width: int = 0
    longest: int = 0
    padded: bool = False
    biases: dict[Any, Tensor | None] = field(default_factory=dict)  # of this step

    def __post_init__(self) -> None:
        self.arrange()

    @property
    def rows(self) -> int:
        return len(self.of)

    @property
    def tokens(self) -> int:
        """Of cache, allocated."""
        return len(self.lengths) * self.longest + self.rows * self.room

    def arrange(self) -> None:
        """Where each row stands in the rectangle. Synchronises with the device: called when rows change."""
        counts = torch.bincount(self.of, minlength=len(self.lengths))
        self.width, self.longest = int(counts.max()), int(self.lengths.max())
        self.padded = bool((self.lengths != self.longest).any())
        self.slots = self.place = None
        if self.width * len(self.lengths) != self.rows:
            first = counts.cumsum(0) - counts
            self.place = self.of * self.width + torch.arange(self.rows, device=self.of.device) - first[self.of]
            self.slots = torch.zeros(len(counts) * self.width, dtype=torch.long, device=self.of.device)
            self.slots[self.place] = torch.arange(self.rows, device=self.of.device)

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these, ascending, and prompts that have no row left."""
        of = self.of[rows]
        kept, self.of = torch.unique_consecutive(of, return_inverse=True)
        fewer = len(kept) < len(self.lengths)
        self.lengths = self.lengths[kept]
        self.arrange()
        for i, layer in enumerate(self.layers):
            keys, values = layer.prompt_keys, layer.prompt_values
            if fewer:
                keys, values = keys[kept, ..., : self.longest], values[kept, :, : self.longest]
            self.layers[i] = Layer(keys, values, layer.own_keys[rows], layer.own_values[rows])

    def prompt_bias(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """(P, 1, 1, L), or None where every row sees its whole prompt. The lowest number, not -inf: where a window
        has left a prompt behind, its normaliser is then nothing beside that of the row's own tokens, and no NaN."""
        if not self.padded and (window is None or self.longest + self.age < window):
            return None
        if ("prompt", window) not in self.biases:
            at = torch.arange(self.longest, device=self.of.device)
            ends = self.lengths[:, None]
            seen = at < ends
            if window is not None:
                seen = seen & (ends + self.age - at < window)
            self.biases["prompt", window] = _bias(seen, dtype)[:, None, None]
        return self.biases["prompt", window]

    def own_bias(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """(age + 1,), or None where every token is seen."""
        if window is None or self.age < window:
            return None
        if ("own", window) not in self.biases:
            at = torch.arange(self.age + 1, device=self.of.device)
            self.biases["own", window] = _bias(self.age - at < window, dtype)
        return self.biases["own", window]


@dataclass(slots=True)
class Flight:
    """What the attention function is handed: cohorts whose rows, one after another, are the N rows of the input; or,
    while prompts are read, the packed row's segments and the cohort that they fill."""

    cohorts: list[Cohort] = field(default_factory=list)
    calls: int = 0
    segments: Segments | None = None
    filling: Cohort | None = None
    gather: Tensor | None = None  # (P', L) where in the packed row each prompt's tokens are; padding is any
    first: int = 0  # the first of these prompts

    def fill(self, key: Tensor, value: Tensor) -> None:
        """(1, J, T, D) of the packed row into the cohort's next layer."""
        cohort, gather = self.filling, self.gather
        assert cohort is not None
        assert gather is not None
        prompts, rows, width = len(cohort.lengths), cohort.rows, cohort.longest
        (heads, size), size_v = (key.shape[1], key.shape[3]), value.shape[3]
        if self.calls == len(cohort.layers):
            cohort.layers.append(
                Layer(
                    key.new_empty(prompts, heads, size, width),
                    value.new_empty(prompts, heads, width, size_v),
                    key.new_empty(rows, heads, cohort.room, size),
                    value.new_empty(rows, heads, cohort.room, size_v),
                )
            )
        layer, to = cohort.layers[self.calls], slice(self.first, self.first + len(gather))
        keys, values = (x[0].index_select(1, gather.view(-1)).unflatten(1, gather.shape) for x in (key, value))
        layer.prompt_keys[to].copy_(keys.permute(1, 0, 3, 2))
        layer.prompt_values[to].copy_(values.transpose(0, 1))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    assent_cohorts: Flight,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """(1, H, N, D), (1, J, N, D), (1, J, N, D') -> (1, N, H, D'): each row's newest token sees its prompt and its own.

    Keywords as in `models.attention.attention`, which serves the reading of prompts.
    """
    flight = assent_cohorts
    if flight.segments is not None:
        flight.fill(key, value)
        flight.calls += 1
        others |= {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, "s_aux": s_aux}
        others |= {"dropout": dropout, "is_causal": is_causal, "assent_segments": flight.segments}
        return over_segments(module, query, key, value, attention_mask, **others)
    given = unsupported(others)
    if attention_mask is not None or dropout or is_causal is False or given:
        raise ValueError(
            f"attention over cohorts cannot serve this call: mask {'given' if attention_mask is not None else 'none'}, "
            f"dropout {dropout}, is_causal {is_causal}, other keywords {given}"
        )
    options = Options(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    outputs, start = [], 0
    for cohort in flight.cohorts:
        part = slice(start, start + cohort.rows)
        layer = cohort.layers[flight.calls]
        layer.own_keys[:, :, cohort.age] = keys[part]
        layer.own_values[:, :, cohort.age] = values[part]
        outputs.append(_attend(cohort, layer, queries[part], options))
        start = part.stop
    flight.calls += 1
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def _attend(cohort: Cohort, layer: Layer, query: Tensor, options: Options) -> Tensor:
    """(S, H, D) -> (S, H, D')."""
    rows, heads, size = query.shape
    prompts, key_heads = layer.prompt_keys.shape[:2]
    query = (query * options.scale).reshape(rows, key_heads, -1, size)
    own_keys, own_values = (x[:, :, : cohort.age + 1] for x in (layer.own_keys, layer.own_values))
    own, own_total = _partial(
        query, own_keys.transpose(-1, -2), own_values, cohort.own_bias(options.window, query.dtype), options
    )
    # all completions of a prompt are queries of one product: (P, J, K·R, D)
    placed = query if cohort.slots is None else query.index_select(0, cohort.slots)
    placed = placed.view(prompts, cohort.width, key_heads, -1, size).transpose(1, 2)
    repeats = placed.shape[3]
    bias = cohort.prompt_bias(options.window, query.dtype)
    seen, seen_total = (
        x.view(prompts, key_heads, cohort.width, repeats, -1)
        .transpose(1, 2)
        .reshape(-1, key_heads, repeats, x.shape[-1])
        for x in _partial(
            placed.reshape(prompts, key_heads, -1, size), layer.prompt_keys, layer.prompt_values, bias, options
        )
    )
    if cohort.place is not None:
        seen, seen_total = seen.index_select(0, cohort.place), seen_total.index_select(0, cohort.place)
    joined = torch.lerp(own, seen, torch.sigmoid(seen_total - own_total).to(own.dtype))
    if options.sinks is not None:
        total = torch.logaddexp(own_total, seen_total)
        joined = joined * torch.sigmoid(total - options.sinks.view(1, key_heads, -1, 1)).to(joined.dtype)
    return joined.reshape(rows, heads, -1)


def _partial(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """(…, Q, D), (…, D, L), (…, L, D') -> attention over these keys alone (…, Q, D') and the log of its normaliser
    (…, Q, 1). Softmax in float32 or wider."""
    scores = torch.matmul(query, keys)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if bias is not None:
        scores += bias
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    out = torch.matmul(weights.to(values.dtype), values)
    return out / total.to(out.dtype), top + total.log()


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    wide = torch.promote_types(dtype, torch.float32)
    return torch.zeros(seen.shape, dtype=wide, device=seen.device).masked_fill_(~seen, torch.finfo(wide).min)


AttentionInterface.register(NAME, attention)
