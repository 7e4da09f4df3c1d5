"""Rows in flight and their attention: a prompt's keys and values are stored once, and all its completions attend to
them.

Rows that were admitted together and have prompts of similar lengths are a cohort. They have the same age, so their own
keys and values are in buffers without padding or mask, allocated once for the longest completion. The scores of the
prompt and of the row's own tokens are concatenated for one softmax; its weights then multiply the values of each.

Legend: P prompts, S rows of a cohort, N rows of all cohorts, J key heads, R query heads per key head, D head width,
L longest prompt, C room for own tokens, t own tokens that a row has.
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
from assent.rollouts.graphs import SPAN

NAME = "assent_cohorts"
"""Name of the attention function, and of the keyword that passes the flight."""


@dataclass(slots=True)
class Layer:
    """A cohort's keys and values in one layer. The prompts' keys are stored transposed, as the product needs them."""

    prompt_keys: Tensor  # (P, J, D, L)
    prompt_values: Tensor  # (P, J, L, D')
    own_keys: Tensor  # (S, J, C, D)
    own_values: Tensor  # (S, J, C, D')


@dataclass(slots=True)
class Cohort:
    """Rows of one age. `of` (S,), ascending: the prompt of each row. `lengths` (P,): the prompts' lengths."""

    lengths: Tensor
    of: Tensor
    room: int
    age: int = 0
    at: Tensor | None = None  # (1,) the age, if steps keep their shapes and are replayed (graphs.py)
    layers: list[Layer] = field(default_factory=list)
    # rows in a (P, K) rectangle: `slots` (P·K,) the row of each place, `place` (S,) the inverse; None: they fill it
    slots: Tensor | None = None
    place: Tensor | None = None
    width: int = 0
    longest: int = 0
    padded: bool = False
    biases: dict[int | None, Tensor] = field(default_factory=dict)  # this step's, by window

    def __post_init__(self) -> None:
        self.arrange()

    @property
    def rows(self) -> int:
        return len(self.of)

    @property
    def reach(self) -> int:
        """Own tokens that attention reads: those that a row has, the newest included, or more, which are masked."""
        return self.age + 1 if self.at is None else min(self.room, -(-(self.age + 1) // SPAN) * SPAN)

    @property
    def tokens(self) -> int:
        """Tokens of cache that are allocated."""
        return len(self.lengths) * self.longest + self.rows * self.room

    def arrange(self) -> None:
        """Finds each row's place in the rectangle. Synchronises with the device, so it runs only when rows change."""
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
        """Drops all rows except `rows` (ascending), and the prompts that then have no row."""
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

    def placed(self, rows: Tensor) -> Tensor:
        """(S, J, R, n) -> (P, J, width·R, n), so that all completions of a prompt are queries of one product."""
        rows = rows if self.slots is None else rows.index_select(0, self.slots)
        return rows.unflatten(0, (-1, self.width)).transpose(1, 2).flatten(2, 3)

    def rows_of(self, placed: Tensor) -> Tensor:
        """The inverse of `placed`."""
        rows = placed.unflatten(2, (self.width, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self.place is None else rows.index_select(0, self.place)

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """(P, 1, 1, longest + reach), or None if every row sees its whole prompt and all its own tokens."""
        age = self.age if self.at is None else self.at
        if self.at is None and not self.padded and (window is None or self.longest + self.age < window):
            return None
        if window not in self.biases:
            device, ends = self.of.device, self.lengths[:, None]
            at = torch.arange(self.longest, device=device)
            own = torch.arange(self.reach, device=device).expand(len(ends), -1)
            seen = torch.cat([at < ends, own <= age], dim=1)
            if window is not None:
                seen = seen & (torch.cat([ends + age - at, age - own], dim=1) < window)
            bias = torch.zeros(seen.shape, dtype=torch.promote_types(dtype, torch.float32), device=device)
            self.biases[window] = bias.masked_fill_(~seen, float("-inf"))[:, None, None]
        return self.biases[window]


@dataclass(slots=True)
class Flight:
    """The input of the attention function: cohorts whose rows, one after another, are the N rows of the input. While
    prompts are read, it is the packed row's segments and the cohort that they fill."""

    cohorts: list[Cohort] = field(default_factory=list)
    calls: int = 0
    segments: Segments | None = None
    filling: Cohort | None = None
    gather: Tensor | None = None  # (P', L) where each prompt's tokens are in the packed row; padding may be anything
    first: int = 0  # the index of the first of these prompts

    def fill(self, key: Tensor, value: Tensor) -> None:
        """Writes the packed row's keys and values (1, J, T, D) into the cohort's next layer."""
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
                    key.new_zeros(rows, heads, cohort.room, size),  # masked entries must be finite
                    value.new_zeros(rows, heads, cohort.room, size_v),
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
    """(1, H, N, D), (1, J, N, D), (1, J, N, D') -> (1, N, H, D'): each row's newest token sees the prompt and the row.

    Keywords as in `models.attention.attention`, which reads the prompts.
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
        for own, new in ((layer.own_keys, keys[part]), (layer.own_values, values[part])):
            if cohort.at is None:
                own[:, :, cohort.age] = new
            else:
                own.index_copy_(2, cohort.at, new[:, :, None])
        outputs.append(_attend(cohort, layer, queries[part], options))
        start = part.stop
    flight.calls += 1
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def _attend(cohort: Cohort, layer: Layer, query: Tensor, options: Options) -> Tensor:
    """(S, H, D) -> (S, H, D'). The softmax is in float32 or wider."""
    rows, heads, size = query.shape
    key_heads = layer.own_keys.shape[1]
    query = (query * options.scale).reshape(rows, key_heads, -1, size)
    own_keys, own_values = (x[:, :, : cohort.reach] for x in (layer.own_keys, layer.own_values))
    own = cohort.placed(torch.matmul(query, own_keys.transpose(-1, -2)))
    scores = torch.cat([torch.matmul(cohort.placed(query), layer.prompt_keys), own], dim=-1)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if (bias := cohort.bias(options.window, scores.dtype)) is not None:
        scores += bias
    if options.sinks is not None:
        sink = options.sinks.to(scores.dtype).view(1, key_heads, 1, -1, 1).expand(len(scores), -1, cohort.width, -1, -1)
        scores = torch.cat([scores, sink.flatten(2, 3)], dim=-1)
    weights = scores.softmax(-1).to(layer.own_values.dtype)
    seen, own = weights[..., : cohort.longest], weights[..., cohort.longest : cohort.longest + cohort.reach]
    out = cohort.rows_of(torch.matmul(seen, layer.prompt_values)) + torch.matmul(cohort.rows_of(own), own_values)
    return out.reshape(rows, heads, -1)


AttentionInterface.register(NAME, attention)
