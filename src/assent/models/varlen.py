"""Attention over segments with CUDA's variable-length flash kernel: no padding, one call for the whole row.

Queries stay in place in the row. A segment's keys are its prefix and its own tokens. The kernel aligns causality at the
bottom right, as a segment with a prefix needs. This, grouped heads and windows differ between releases, so the first
call of a process is compared with the padded computation, and the kernel is not used if they disagree.

Legend: T row tokens, H query heads, J key heads, D head width, M gathered keys.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assent.models.segments import Segments

TOLERANCE = 0.02
"""The largest difference between two half-precision attentions, relative to the largest output."""
_trusted: dict[tuple[Any, ...], bool] = {}


def serves(query: Tensor, value: Tensor) -> bool:
    """Whether the kernel accepts the inputs: CUDA, half precision, equal head widths of at most 256."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and half and query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0


def attend(
    segments: Segments,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None,
    padded: Callable[[], Tensor],
) -> Tensor | None:
    """(1, H, T, D), (1, J, T, D) twice -> (1, T, H, D); None if the kernel failed the comparison.

    padded   computes the same with padded segments, for the comparison of the first call
    """
    kind = (query.dtype, query.shape[1], key.shape[1], query.shape[3], window is not None)
    if kind not in _trusted:
        _trusted[kind] = _agrees(lambda: call(segments, query, key, value, scale=scale, window=window), padded)
    return call(segments, query, key, value, scale=scale, window=window) if _trusted[kind] else None


def call(
    segments: Segments,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None,
    kernel: Any = None,
) -> Tensor:
    """Calls the kernel (default: torch's `varlen_attn`) on the row's segments."""
    if kernel is None:
        from torch.nn.attention.varlen import varlen_attn as kernel
    at, query_ends, key_ends, longest_query, longest_key = _layout(segments, query.device)
    q, k, v = (p[0].transpose(0, 1) for p in (query, key, value))
    grouped = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    out = kernel(
        q.contiguous(),
        k.index_select(0, at),
        v.index_select(0, at),
        query_ends,
        key_ends,
        longest_query,
        longest_key,
        scale=scale,
        window_size=(-1 if window is None or window >= longest_key else window - 1, 0),
        **grouped,
    )
    return out[None]


def _layout(segments: Segments, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """The keys' rows (M,), cumulative lengths (segments + 1,) of queries and keys, and the longest of each."""
    if segments.varlen is None:
        start, length, prefix_start, prefix_length = segments.table.T
        keys = length + prefix_length
        offset = np.arange(int(keys.sum())) - np.repeat(np.cumsum(keys) - keys, keys)
        prefix, own = np.repeat(prefix_start, keys), np.repeat(start - prefix_length, keys)
        at = np.where(offset < np.repeat(prefix_length, keys), prefix, own) + offset
        ends = (np.concatenate([[0], np.cumsum(n)]).astype(np.int32) for n in (length, keys))
        query_ends, key_ends = (torch.from_numpy(e).to(device) for e in ends)
        segments.varlen = (torch.from_numpy(at).to(device), query_ends, key_ends, int(length.max()), int(keys.max()))
    return segments.varlen


@torch.no_grad()
def _agrees(kernel: Callable[[], Tensor], padded: Callable[[], Tensor]) -> bool:
    try:
        expected = padded()
        difference = (kernel() - expected).abs().max()
        if float(difference) <= TOLERANCE * float(expected.abs().max()):
            return True
        reason = f"differs by {float(difference):.2g}"
    except (RuntimeError, TypeError, ValueError, ImportError) as error:
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(
        f"the variable-length attention kernel is not used ({reason}); padded segments are used instead", stacklevel=2
    )
    return False
