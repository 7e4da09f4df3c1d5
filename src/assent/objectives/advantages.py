"""From scores to per-token rewards, advantages and returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def token_rewards(kl_per_token: Tensor, scores: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """(S, L): -kl_coef * KL at each counted token, plus the completion's score at its last counted token.

    kl_per_token, mask (S, L); scores (S,). Stiennon et al., arXiv:2009.01325, section 3.4: the penalty is a reward of
    each token, the reward model's score belongs to the end of the episode.
    ValueError for a completion without a counted token: its score would have nowhere to go.
    """
    if not bool(mask.any(dim=1).all()):
        raise ValueError("a completion has no counted token, so its score has nowhere to go")
    rewards = torch.where(mask, -kl_coef * kl_per_token, torch.zeros_like(kl_per_token))
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(dim=1, keepdim=True)
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    lam: float,
    last_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., arXiv:1506.02438, eq. 16): (advantages, returns), each (S, L).

    rewards, values, mask (S, L): reward for counted token t, value of the state before it. Tokens that do not count
    (padding, another's turn) are stepped over and get zero.
    last_values (S,): value of the state after the last counted token: the bootstrap of a completion that was cut; zero
    for one that ended, as for all where none are given. Returns are advantages + values: the critic's targets.
    """
    advantages = torch.zeros_like(rewards)
    next_value = torch.zeros_like(rewards[:, 0]) if last_values is None else last_values.to(rewards.dtype)
    next_advantage = torch.zeros_like(next_value)
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # eq. 9: the residual of one step
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(mask[:, t], advantage, 0.0)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        next_advantage = torch.where(mask[:, t], advantage, next_advantage)
    return advantages, torch.where(mask, advantages + values, 0.0)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares: they add up over micro-batches and processes."""

    count: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, x: Tensor, mask: Tensor) -> Moments:
        """Scalars in float64."""
        kept = x[mask].detach().cpu().double()  # MPS has no float64
        return cls(torch.tensor(float(kept.numel()), dtype=torch.float64), kept.sum(), kept.square().sum())

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)


def whiten(x: Tensor, mask: Tensor, *, mean: bool, std: bool, moments: Moments | None = None) -> Tensor:
    """x of any shape, shifted to mean 0 (`mean`) and scaled to variance 1 (`std`) over its counted tokens.

    `moments` are of the whole step over all processes; of this x where none are given. The variance divides by the
    count, not by count - 1 (TRL's masked_whiten does the latter), so that it is defined for one token. What does not
    vary is not scaled: 1 / sqrt(0 + eps) would blow rounding errors up. Masked entries become zero.
    """
    of = Moments.of(x, mask) if moments is None else moments
    count = of.count.clamp(min=1)
    average = of.total / count
    variance = (of.squares / count - average.square()).clamp(min=0)
    constant = bool(variance <= 1e-12 * average.square()) or bool(variance == 0)
    scale = 1.0 if constant or not std else float(torch.rsqrt(variance + 1e-8))
    centre = float(average) if mean else 0.0
    return torch.where(mask, (x - centre) * scale, torch.zeros_like(x))
