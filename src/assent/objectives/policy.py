"""Policy objectives: one value for each counted token, to be minimised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def ppo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, cliprange: float
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Clipped surrogate of PPO (Schulman et al., arXiv:1707.06347, eq. 7), negated.

    logprobs       of the policy in training; old_logprobs of the policy that sampled (not of the reference)
    all            of one shape, (N,) or (S, L); mask True counts. Values and metrics too, zero where masked.

    Metrics, to be averaged over counted tokens: `policy/clipfrac_avg` (1 where the clipped branch is the one taken),
    `policy/approxkl_avg` (k2 of old to new, TRL's meaning), `policy/approxkl_k1`, `policy/approxkl_k3`, `val/ratio`.
    """
    zero = torch.zeros_like(logprobs)
    log_ratio = torch.where(mask, logprobs - old_logprobs, zero)  # padding must not overflow in exp
    advantages = torch.where(mask, advantages, zero)
    ratio = torch.exp(log_ratio)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    values = torch.maximum(unclipped, clipped)  # eq. 7's minimum, negated: clipping alone would pay for far ratios
    with torch.no_grad():
        metrics = {
            "policy/clipfrac_avg": (clipped > unclipped).to(logprobs.dtype),
            "policy/approxkl_avg": 0.5 * log_ratio.square(),
            "policy/approxkl_k1": -log_ratio,
            "policy/approxkl_k3": torch.expm1(log_ratio) - log_ratio,
            "val/ratio": torch.where(mask, ratio, zero),
        }
    return values, {name: value.detach() for name, value in metrics.items()}
