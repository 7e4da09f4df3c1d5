"""Sums and layouts. A loss is reduced as (sum over the micro-batch) / (count over the whole step): law 2."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x where mask is True, as a scalar. Masked entries may be anything, NaN included."""
    return torch.where(mask, x, torch.zeros_like(x)).sum()


def masked_mean(x: Tensor, mask: Tensor, *, count: float | Tensor | None = None) -> Tensor:
    """Masked sum divided by `count`, the count of the whole step; None: the count of this mask."""
    return masked_sum(x, mask) / (mask.sum().clamp(min=1) if count is None else count)


def as_rows(flat: Tensor, sequence: Tensor, num_sequences: int) -> tuple[Tensor, Tensor]:
    """(N,) tokens in order, each of the completion `sequence` (N,) -> rows (S, L), zero after each end, and their mask.

    `rows[mask]` gives `flat` again.
    """
    lengths = torch.bincount(sequence, minlength=num_sequences)
    longest = int(lengths.max()) if num_sequences else 0
    mask = torch.arange(longest, device=flat.device) < lengths[:, None]
    rows = flat.new_zeros(num_sequences, longest)
    rows[mask] = flat
    return rows, mask
