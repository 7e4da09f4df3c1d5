"""Value objectives: one value for each counted token. They are minimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, cliprange_value: float = 0.0
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Half the squared error, clipped around the rollout's values (Engstrom et al., arXiv:2005.12729, section 3).

    (1/2) max[(V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2]; no clipping if cliprange_value is 0.
    All tensors have one shape, (N,) or (S, L); mask True counts. Metrics have that shape and are averaged over counted
    tokens: `val/clipfrac_avg` (1 where the clipped branch is taken), `val/error` (squared error, unclipped).
    """
    zero = torch.zeros_like(values)
    error = torch.where(mask, values - returns, zero).square()
    if not cliprange_value:
        chosen, clipfrac = error, zero
    else:
        near = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
        clipped = torch.where(mask, near - returns, zero).square()
        chosen, clipfrac = torch.maximum(error, clipped), (clipped > error).to(values.dtype)
    return 0.5 * chosen, {"val/clipfrac_avg": clipfrac.detach(), "val/error": error.detach()}


def squared_error(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Half the squared error to the returns, which are constants: A2C's (1/2) (r + gamma V(s') - V(s))^2 with V(s')
    detached (Mnih et al., arXiv:1602.01783, algorithm S3). Shapes and metrics as in `value_loss`.
    """
    return value_loss(values, old_values, returns, mask)


ValueLoss = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]
VALUE_OBJECTIVES: Mapping[str, ValueLoss] = {"clipped": value_loss, "squared_error": squared_error}
"""By the names of config/algorithms.py."""
