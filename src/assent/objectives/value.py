"""Value objectives: one value for each counted token, to be minimised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, cliprange_value: float | None
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Half the squared error, clipped around the rollout's values (Engstrom et al., arXiv:2005.12729, section 3).

    (1/2) max[(V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2]; no clipping where cliprange_value is None.
    All of one shape, (N,) or (S, L); mask True counts. Metrics of that shape, to be averaged over counted tokens:
    `val/clipfrac_avg` (1 where the clipped branch is the one taken), `val/error` (squared error, unclipped).
    """
    zero = torch.zeros_like(values)
    error = torch.where(mask, values - returns, zero).square()
    if cliprange_value is None:
        chosen, clipfrac = error, zero
    else:
        near = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
        clipped = torch.where(mask, near - returns, zero).square()
        chosen, clipfrac = torch.maximum(error, clipped), (clipped > error).to(values.dtype)
    return 0.5 * chosen, {"val/clipfrac_avg": clipfrac.detach(), "val/error": error.detach()}
