"""Policy objectives: one value for each counted token. They are minimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    cliprange: float,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Clipped surrogate of PPO (Schulman et al., arXiv:1707.06347, eq. 7), negated.

    logprobs         of the policy in training; old_logprobs: of the policy that sampled (not of the reference)
    cliprange        the ratio is clipped to [1 - cliprange, 1 + cliprange_high]; 0: no clipping
    cliprange_high   None: cliprange (clip-higher: Yu et al., arXiv:2503.14476, eq. 10)
    dual_clip        c > 1: a negative advantage counts at most c times (Ye et al., arXiv:1912.09729, eq. 5)

    All tensors, values and metrics included, have one shape, (N,) or (S, L). mask True counts; values and metrics are
    zero where it is False. Metrics, to be averaged over counted tokens: those of `_divergence`, and
    `policy/clipfrac_avg` (1 where a clipped branch is taken).
    """
    zero = torch.zeros_like(logprobs)
    log_ratio = torch.where(mask, logprobs - old_logprobs, zero)  # so that exp cannot overflow on padding
    advantages = torch.where(mask, advantages, zero)
    ratio = torch.exp(log_ratio)
    unclipped = values = -advantages * ratio
    if cliprange:
        high = cliprange if cliprange_high is None else cliprange_high
        clipped = -advantages * ratio.clamp(1.0 - cliprange, 1.0 + high)
        values = torch.maximum(unclipped, clipped)  # eq. 7's minimum, negated: also penalises moves the wrong way
    if dual_clip is not None:
        values = torch.where(advantages < 0, torch.minimum(values, -dual_clip * advantages), values)
    with torch.no_grad():
        metrics = {"policy/clipfrac_avg": (values != unclipped).to(logprobs.dtype), **_divergence(log_ratio, mask)}
    return values, {name: value.detach() for name, value in metrics.items()}


def policy_gradient_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """-A log pi(a | s). Its gradient is the policy gradient if the policy in training is the one that sampled
    (Williams 1992; A2C: Mnih et al., arXiv:1602.01783, section 4). Shapes and metrics as in `ppo_loss`.
    """
    zero = torch.zeros_like(logprobs)
    values = torch.where(mask, -advantages * logprobs, zero)
    with torch.no_grad():
        metrics = _divergence(torch.where(mask, logprobs - old_logprobs, zero), mask)
    return values, {name: value.detach() for name, value in metrics.items()}


def _divergence(log_ratio: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """`policy/approxkl_avg` (k2 from old to new policy, as in TRL), `policy/approxkl_k1` and `_k3`, `val/ratio`."""
    return {
        "policy/approxkl_avg": 0.5 * log_ratio.square(),
        "policy/approxkl_k1": -log_ratio,
        "policy/approxkl_k3": torch.expm1(log_ratio) - log_ratio,
        "val/ratio": torch.where(mask, torch.exp(log_ratio), torch.zeros_like(log_ratio)),
    }


PolicyLoss = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]
POLICY_OBJECTIVES: Mapping[str, PolicyLoss] = {"clip": ppo_loss, "policy_gradient": policy_gradient_loss}
"""By the names of config/algorithms.py."""
