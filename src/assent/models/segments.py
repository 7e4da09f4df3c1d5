"""What each token of a packed row sees: segments of queries, in buckets of similar size.

A segment is a run of queries in the row and a prefix of the row that they also see. The prompt with its first
completion is one segment without a prefix (plainly causal). Each other completion is a segment whose prefix is the
prompt. Segments of similar size are padded to one shape and go through one attention call. The index tensors that
gather and scatter them are made once for a batch and are used by all layers.

Legend: T row tokens, B segments of a bucket, Lq and Lk its padded numbers of queries and keys, F features of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from assent.models.joined_attention import KEY_BLOCK

CALL_COST = {"cpu": 400_000, "other": 50_000_000}
"""The cost of one more attention call, forward and backward, as query-key-feature products that take the same time. The
CPU's was measured (about 0.12 ms); elsewhere a call costs a few kernel starts, and products cost next to nothing."""
MAX_CUTS = 48
"""The most places among which the cuts between buckets are chosen."""


@dataclass(slots=True)
class Bucket:
    """Segments padded to Lq queries and Lk keys. `queries` and `keys` are its slices of the gathered rows."""

    queries: slice
    keys: slice
    query_length: Tensor  # (B,)
    prefix_length: Tensor  # (B,)
    shape: tuple[int, int, int]  # B, Lq, Lk
    is_causal: bool  # query i is at key i, so causality from the top left is exact, padding included
    apart: int | None = None  # where all segments' own keys begin, with prefixes padded to it; None: after the prefix
    masks: dict[Any, Any] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(B, 1, Lq, Lk) additive mask; a query sees itself and up to `window - 1` tokens before it (None: all)."""
        window = None if window is not None and window >= self.shape[2] else window
        if (window, dtype) not in self.masks:
            allowed = self.allowed(window)
            self.masks[window, dtype] = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
                ~allowed, float("-inf")
            )
        return self.masks[window, dtype]

    def allowed(self, window: int | None) -> Tensor:
        """(B, 1, Lq, Lk) bool. A padding query sees what the segment's last query sees, so no row is empty."""
        device = self.query_length.device
        prefix, last = self.prefix_length[:, None], (self.prefix_length + self.query_length - 1)[:, None]
        query = torch.minimum(prefix + torch.arange(self.shape[1], device=device), last)[:, None, :, None]
        key = torch.arange(self.shape[2], device=device)
        if self.apart is None:
            allowed = key <= query
        else:
            is_prefix = key < self.apart
            key = torch.where(is_prefix, key, key - self.apart + prefix)[:, None, None]
            allowed = (key <= query) & (~is_prefix | (key < prefix[:, None, None]))
        return allowed if window is None else allowed & (query - key < window)

    def prefix_bias(self, dtype: torch.dtype) -> Tensor | None:
        """(B, 1, 1, apart), to be added to the prefixes' scores; None if no prefix is padded."""
        if ("prefix", dtype) not in self.masks:
            seen = torch.arange(self.apart or 0, device=self.prefix_length.device) < self.prefix_length[:, None]
            bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
            self.masks["prefix", dtype] = None if seen.all() else bias[:, None, None]
        return self.masks["prefix", dtype]


@dataclass(slots=True)
class Segments:
    """Index tensors of one batch. `query_at` (Mq,), `key_at` (Mk,) gather rows. Padding gathers row 0, never read."""

    buckets: list[Bucket]
    query_at: Tensor  # (Mq,) row of each gathered query
    query_of: Tensor  # (T,) gathered query of each row
    query_padding: Tensor  # gathered queries that are padding
    key_at: Tensor  # (Mk,) row of each gathered key
    key_of: Tensor  # (T,) gathered key that is the row's own
    prefix_row: Tensor  # rows that are gathered again as a prefix …
    prefix_of: Tensor  # … and the gathered keys that they become
    prefixes: list[tuple[int, int, int]]  # the same as runs: first row, first gathered key, length
    table: np.ndarray  # (segments, 4) query start, query length, prefix start, prefix length, in row order
    calls: int = 0  # how often attention was called for this batch
    windows: list[int | None] = field(default_factory=list)
    varlen: Any = None  # index tensors of the variable-length kernel, made when it is first called
    read: tuple[Tensor, Tensor, Tensor] | None = None  # read rows (M,), their number for each row (T,), unread rows

    def gather_queries(self, rows: Tensor) -> Tensor:
        """(T, F) -> (Mq, F)"""
        return _Gather.apply(rows, self.query_at, self.query_of, None, None, None, None)

    def gather_keys(self, rows: Tensor) -> Tensor:
        """(T, F) -> (Mk, F)"""
        runs = self.prefixes if rows.device.type == "cpu" else None
        return _Gather.apply(rows, self.key_at, self.key_of, None, self.prefix_row, self.prefix_of, runs)

    def scatter(self, gathered: Tensor) -> Tensor:
        """(Mq, F) -> (T, F)"""
        return _Gather.apply(gathered, self.query_of, self.query_at, self.query_padding, None, None, None)

    def gather_read(self, rows: Tensor) -> Tensor:
        """(T, F) -> (M, F)"""
        assert self.read is not None
        return _Gather.apply(rows, *self.read, None, None, None)

    def spread_read(self, rows: Tensor) -> Tensor:
        """(M, F) -> (T, F). An unread row gets another row's values."""
        assert self.read is not None
        read, inverse, _ = self.read
        return _Gather.apply(rows, inverse, read, None, None, None, None)


class _Gather(torch.autograd.Function):
    """Selects rows by index, forward and backward. `index_select`'s own backward adds row by row and is much slower.

    `runs` are `row` and `of` as slices: on a CPU, adding slices is several times as fast as `index_add_`, which sorts.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        at: Tensor,
        inverse: Tensor,
        empty: Tensor | None,
        row: Tensor | None,
        of: Tensor | None,
        runs: list[tuple[int, int, int]] | None,
    ) -> Tensor:
        ctx.save_for_backward(inverse, empty, row, of)
        ctx.runs = runs
        return rows.index_select(0, at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inverse, empty, row, of = ctx.saved_tensors
        grad = grads[0].index_select(0, inverse)
        if empty is not None and len(empty):
            grad.index_fill_(0, empty, 0)
        if ctx.runs is not None:
            for start, first, length in ctx.runs:
                grad[start : start + length] += grads[0][first : first + length]
        elif row is not None and len(row):
            grad.index_add_(0, row, grads[0].index_select(0, of))
        return grad, None, None, None, None, None, None


def make_segments(
    prompts: Sequence[tuple[int, int]],
    completions: Sequence[tuple[int, int]],
    *,
    num_tokens: int,
    device: torch.device | str,
    features: int = 256,
    skips_half: bool = False,
) -> Segments:
    """Segments of a packed row of `num_tokens` tokens, from its prompts' and completions' (start, end).

    features     width of all query heads together, which weighs the cost of padding against the cost of calls
    skips_half   whether causal attention costs half; long segments' own keys are then padded apart from the prefixes,
                 for `joined_attention`
    """
    call_area = CALL_COST["cpu" if torch.device(device).type == "cpu" else "other"] // features
    table = segment_table(prompts, completions, num_tokens=num_tokens)
    has_prefix = table[:, 3] > 0
    made = _Making(num_tokens)
    for kind in (False, True):
        members = np.flatnonzero(has_prefix == kind)
        for chosen in _bucket(table[members, 1], table[members, 1] + table[members, 3], call_area=call_area):
            made.add(table[members[chosen]], has_prefix=kind, skips_half=skips_half, device=device)

    def tensor(arrays: np.ndarray | list[np.ndarray]) -> Tensor:
        array = arrays if isinstance(arrays, np.ndarray) else np.concatenate(arrays)
        return torch.from_numpy(array.astype(np.int64)).to(device)

    return Segments(
        made.buckets,
        tensor(made.query_at),
        tensor(made.query_of),
        tensor(made.pads),
        tensor(made.key_at),
        tensor(made.key_of),
        tensor(made.prefix_row),
        tensor(made.prefix_of),
        made.prefixes,
        table,
    )


class _Making:
    """The arrays of `Segments`, bucket by bucket."""

    def __init__(self, num_tokens: int) -> None:
        self.query_at: list[np.ndarray] = []
        self.key_at: list[np.ndarray] = []
        self.pads: list[np.ndarray] = []
        self.query_of = np.zeros(num_tokens, np.int64)
        self.key_of = np.zeros(num_tokens, np.int64)
        self.prefix_row: list[np.ndarray] = []
        self.prefix_of: list[np.ndarray] = []
        self.prefixes: list[tuple[int, int, int]] = []
        self.buckets: list[Bucket] = []
        self.num_queries = self.num_keys = 0

    def add(self, segments: np.ndarray, *, has_prefix: bool, skips_half: bool, device: torch.device | str) -> None:
        """A bucket of `segments`, rows of the table."""
        start, length, prefix_start, prefix_length = segments.T[..., None]
        shape = (len(start), int(length.max()), int((length + prefix_length).max()))
        apart, own_start = None, prefix_length
        if has_prefix and skips_half and prefix_length.max() + (shape[1] + KEY_BLOCK) / 2 < shape[2]:
            apart = own_start = int(prefix_length.max())
            shape = (*shape[:2], apart + shape[1])
        i, j = np.arange(shape[1]), np.arange(shape[2])
        real = i < length
        rows = np.where(real, start + i, 0)
        self.query_of[rows[real]] = self.num_queries + np.flatnonzero(real)
        self.pads.append(self.num_queries + np.flatnonzero(~real))
        in_prefix, own = j < prefix_length, (j >= own_start) & (j < own_start + length)
        keys = np.where(in_prefix, prefix_start + j, np.where(own, start + j - own_start, 0))
        self.key_of[keys[own]] = self.num_keys + np.flatnonzero(own)
        self.prefix_row.append(keys[in_prefix])
        self.prefix_of.append(self.num_keys + np.flatnonzero(in_prefix))
        if has_prefix:
            firsts = self.num_keys + shape[2] * np.arange(shape[0])
            self.prefixes += np.stack([prefix_start[:, 0], firsts, prefix_length[:, 0]], axis=1).tolist()
        self.buckets.append(
            Bucket(
                slice(self.num_queries, self.num_queries + rows.size),
                slice(self.num_keys, self.num_keys + keys.size),
                torch.from_numpy(length[:, 0]).to(device),
                torch.from_numpy(prefix_length[:, 0]).to(device),
                shape,
                not has_prefix,
                apart,
            )
        )
        self.num_queries, self.num_keys = self.num_queries + rows.size, self.num_keys + keys.size
        self.query_at.append(rows.ravel())
        self.key_at.append(keys.ravel())


def rows_read(is_read: np.ndarray, *, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """`Segments.read` from `is_read` (T,), which says which rows are read."""
    inverse = np.where(is_read, np.cumsum(is_read) - 1, 0)
    arrays = np.flatnonzero(is_read), inverse, np.flatnonzero(~is_read)
    read, which, unread = (torch.from_numpy(array).to(device) for array in arrays)
    return read, which, unread


def segment_table(
    prompts: Sequence[tuple[int, int]], completions: Sequence[tuple[int, int]], *, num_tokens: int
) -> np.ndarray:
    """(segments, 4): query start, query length, prefix start, prefix length, in row order."""
    if not len(prompts):  # the placeholder row of a batch without data
        return np.array([[0, num_tokens, 0, 0]], np.int64)
    prompt = np.asarray(prompts, np.int64).reshape(-1, 2)
    completion = np.asarray(completions, np.int64).reshape(-1, 2)
    group = np.searchsorted(prompt[:, 0], completion[:, 0], side="right") - 1
    is_first = np.diff(group, prepend=-1) > 0
    end = prompt[:, 1].copy()
    end[group[is_first]] = completion[is_first, 1]
    alone = np.stack([prompt[:, 0], end - prompt[:, 0], prompt[:, 0], np.zeros_like(end)], axis=1)
    own, of = completion[~is_first], prompt[group[~is_first]]
    shared = np.stack([own[:, 0], own[:, 1] - own[:, 0], of[:, 0], of[:, 1] - of[:, 0]], axis=1)
    table = np.concatenate([alone, shared])
    return table[np.argsort(table[:, 0], kind="stable")]


def _bucket(queries: np.ndarray, keys: np.ndarray, *, call_area: int) -> list[np.ndarray]:
    """Indices of segments in buckets, chosen by dynamic programming so that padding and calls cost least."""
    number = len(queries)
    if not number:
        return []
    order = np.lexsort((np.arange(number), queries, keys))
    queries, keys = queries[order], keys[order]
    cuts = np.unique(np.linspace(0, number, min(number, MAX_CUTS) + 1).astype(np.int64))
    # The most queries between two neighbouring cuts. Keys ascend, so the last segment of a bucket has the most.
    most = np.maximum.reduceat(queries, cuts[:-1])
    best = np.zeros(len(cuts))
    first = np.zeros(len(cuts), np.int64)
    for end in range(1, len(cuts)):
        widest = np.maximum.accumulate(most[:end][::-1])[::-1]  # (end,) the most queries from a cut to the end
        cost = best[:end] + call_area + (cuts[end] - cuts[:end]) * widest * keys[cuts[end] - 1]
        first[end] = np.argmin(cost)
        best[end] = cost[first[end]]
    buckets = []
    end = len(cuts) - 1
    while end:
        buckets.append(order[cuts[first[end]] : cuts[end]])
        end = int(first[end])
    return buckets
