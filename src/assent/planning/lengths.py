"""The lengths of a data set's rows in tokens, what each `max_length` would cut, and the one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from assent.models.shape import Lengths

CANDIDATES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
CUT_AT_MOST = 0.01
"""The share of rows that the recommended `max_length` may cut."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of `low` to `high` tokens, both included."""

    low: int
    high: int
    rows: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What a `max_length` cuts: the share of the rows, and of all tokens."""

    max_length: int
    rows: float
    tokens: float


@dataclass(frozen=True, slots=True)
class LengthsReport:
    """A row's length is what `max_length` limits: its prompt and its longest completion. `note`: what the recommended
    one cuts."""

    rows: int
    tokens: int
    median: float
    p95: float
    longest: int
    histogram: tuple[Bin, ...]
    cuts: tuple[Cut, ...]
    recommended: int
    note: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def row_lengths(groups: Sequence[Lengths]) -> list[int]:
    """Of each row, the tokens that `max_length` limits: its prompt and its longest completion."""
    return [group.prompt_length + max(group.completion_lengths, default=0) for group in groups]


def measure(groups: Sequence[Lengths], *, context: int | None = None) -> LengthsReport:
    """`context`: the most positions that the model has. ValueError without rows."""
    if not groups:
        raise ValueError("no rows to measure")
    lengths = np.array(row_lengths(groups))
    cuts = tuple(_cut(lengths, limit) for limit in _candidates(lengths, context))
    enough = [cut for cut in cuts if cut.rows <= CUT_AT_MOST]
    best = enough[0] if enough else cuts[-1]
    why = f"cuts {best.rows:.1%} of the rows" if best.rows else "cuts nothing"
    if not enough:
        why += f": the model has only {context} positions"
    return LengthsReport(
        len(lengths),
        int(lengths.sum()),
        float(np.median(lengths)),
        float(np.quantile(lengths, 0.95)),
        int(lengths.max()),
        _histogram(lengths),
        cuts,
        best.max_length,
        why,
    )


def _candidates(lengths: np.ndarray, context: int | None) -> list[int]:
    """The powers of two up to the first that holds every row, within the model's context."""
    most = int(lengths.max())
    last = next((one for one in CANDIDATES if one >= most), most)
    given = [one for one in CANDIDATES if one < last] + [last]
    if context is None or context >= last:
        return given
    return [one for one in given if one < context] + [context]


def _cut(lengths: np.ndarray, limit: int) -> Cut:
    over = np.maximum(lengths - limit, 0)
    return Cut(limit, float((over > 0).mean()), float(over.sum() / lengths.sum()))


def _histogram(lengths: np.ndarray) -> tuple[Bin, ...]:
    """Bins that double: 1 to 16, 17 to 32, …"""
    edges = [0, 16]
    while edges[-1] < lengths.max():
        edges.append(2 * edges[-1])
    counts = [int(((lengths > low) & (lengths <= high)).sum()) for low, high in pairwise(edges)]
    bins = [Bin(low + 1, high, count) for (low, high), count in zip(pairwise(edges), counts, strict=True)]
    while bins and not bins[0].rows:
        bins.pop(0)
    return tuple(bins)
