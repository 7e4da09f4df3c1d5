"""From scores to per-token rewards, advantages and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def token_rewards(kl_per_token: Tensor, scores: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """(S, L): -kl_coef * KL at each counted token, plus the completion's score at its last counted token.

    kl_per_token, mask (S, L); scores (S,), or (S, L) if each already has its token. Stiennon et al., arXiv:2009.01325,
    section 3.4: the penalty is a reward for each token, and the reward model's score comes at the end of the episode.
    Raises ValueError for a completion without counted tokens, because no token could carry its score.
    """
    if not bool(mask.any(dim=1).all()):
        raise ValueError("a completion has no counted token, so no token can carry its score")
    rewards = torch.where(mask, -kl_coef * kl_per_token, torch.zeros_like(kl_per_token))
    placed = scores if scores.ndim == 2 else at_the_end(scores, mask)
    return rewards + torch.where(mask, placed, 0.0).to(rewards.dtype)


def at_the_end(scores: Tensor, mask: Tensor) -> Tensor:
    """(S,) -> (S, L): each score at its row's last counted token, zeros elsewhere."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(dim=1, keepdim=True)
    return torch.where(positions == last, scores[:, None], 0.0)


def shaped_rewards(
    rewards: Tensor, potentials: Tensor, mask: Tensor, *, gamma: float, last_potentials: Tensor | None = None
) -> Tensor:
    """(S, L): r + gamma Phi(s') - Phi(s), dense rewards with the sparse rewards' optimum (Ng et al. 1999, theorem 1).

    rewards, mask (S, L)
    potentials          (S, L): of the state before each counted token
    last_potentials     (S,): of the state after the last token, zero if the completion ended there; None: zeros
    """
    return gae(rewards, potentials, mask, gamma=gamma, lam=0.0, last_values=last_potentials)[0]  # the same residual


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

    rewards, values, mask   (S, L): reward for token t, value of the state before it. Tokens that are not counted
                            (padding, another role's turn) are skipped and get zero.
    last_values             (S,): value of the state after the last counted token. It is the bootstrap of a completion
                            that was cut, and zero for one that ended. None: zeros.

    Returns are advantages + values: the critic's targets.
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
    """Count, sum and sum of squares, which can be added over micro-batches and processes."""

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

    `moments` are those of the whole step over all processes; None: those of this x. The variance is divided by the
    count, not by count - 1 as in TRL's masked_whiten, so that it is defined for one token. A constant x is not scaled:
    1 / sqrt(0 + eps) would magnify rounding errors. Masked entries become zero.
    """
    of = Moments.of(x, mask) if moments is None else moments
    count = of.count.clamp(min=1)
    average = of.total / count
    variance = (of.squares / count - average.square()).clamp(min=0)
    constant = bool(variance <= 1e-12 * average.square()) or bool(variance == 0)
    scale = 1.0 if constant or not std else float(torch.rsqrt(variance + 1e-8))
    centre = float(average) if mean else 0.0
    return torch.where(mask, (x - centre) * scale, torch.zeros_like(x))


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """A round's S completions as rows of L tokens: the input of an advantage function.

    rewards, mask   (S, L): reward of each counted token
    prompt          (S,): the index of the completion's prompt, 0 to G - 1
    values          (S, L): the critic's value of the state before each token; None without a critic
    last_values     (S,): its value of the state after the last token, zero if the completion ended; None: zeros
    step_ends       (S, L): where the steps of a process reward end; None: the only score is at the end
    """

    rewards: Tensor
    mask: Tensor
    prompt: Tensor
    values: Tensor | None = None
    last_values: Tensor | None = None
    step_ends: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """(S,): each completion's sum of rewards."""
        return torch.where(self.mask, self.rewards, torch.zeros_like(self.rewards)).sum(1)


def group_advantages(scores: Tensor, prompt: Tensor, *, scale_rewards: str = "group") -> Tensor:
    """(S,): score minus the mean of the prompt's completions (Shao et al., arXiv:2402.03300, section 4.1.2).

    scores (S,); prompt (S,) the index of each completion's prompt. The difference is divided by a standard deviation
    (K - 1 degrees of freedom, plus 1e-4, as in TRL): that of the `group`, that of the `batch` (all scores given), or
    `none` (Dr. GRPO: Liu et al., arXiv:2503.20783). It is zero if the group's scores are equal.
    """
    # In float32 the mean of equal scores may differ from them, and the deviation is as small as that difference.
    wide = scores.double()
    count = _per_prompt(torch.ones_like(wide), prompt)
    centred = wide - (_per_prompt(wide, prompt) / count)[prompt]
    match scale_rewards:
        case "group":
            variance = _per_prompt(centred.square(), prompt) / (count - 1).clamp(min=1)
            advantages = centred / (variance.sqrt() + 1e-4)[prompt]
        case "batch":
            advantages = centred / (wide.std() + 1e-4) if len(wide) > 1 else centred
        case "none":
            advantages = centred
        case _:
            raise ValueError(f"no scale {scale_rewards!r}; there are group, batch, none")
    return advantages.to(scores.dtype)


def group_step_advantages(
    rewards: Tensor, step_ends: Tensor, prompt: Tensor, *, scale_rewards: str = "group"
) -> Tensor:
    """(S, L): for each token, the sum of the normalised rewards of the steps that end there or later (Shao et al.,
    arXiv:2402.03300, section 4.1.3).

    rewards (S, L); step_ends (S, L), True where a step ends; prompt (S,). Rewards are normalised as in
    `group_advantages`, over all steps of the prompt's completions.
    """
    of = prompt[:, None].expand_as(rewards)[step_ends]
    normalised = torch.zeros_like(rewards)
    normalised[step_ends] = group_advantages(rewards[step_ends], of, scale_rewards=scale_rewards)
    return normalised.flip(1).cumsum(1).flip(1)


def leave_one_out(scores: Tensor, prompt: Tensor) -> Tensor:
    """(S,): score minus the mean of the prompt's other completions (Ahmadian et al., arXiv:2402.14740, eq. 8).

    scores (S,); prompt (S,). Raises ValueError for a prompt's only completion: there is no other to compare it with.
    """
    others = (_per_prompt(torch.ones_like(scores), prompt) - 1)[prompt]
    if bool((others < 1).any()):
        raise ValueError("a prompt has a single completion: leave-one-out needs two")
    wide = scores.double()  # equal scores, equal means: see `group_advantages`
    return (wide - (_per_prompt(wide, prompt)[prompt] - wide) / others).to(scores.dtype)


def _per_prompt(x: Tensor, prompt: Tensor) -> Tensor:
    """(S,) -> (G,): the sum for each prompt."""
    return x.new_zeros(int(prompt.max()) + 1).index_add(0, prompt, x)


def _gae(episodes: Episodes, *, gamma: float, lam: float, whiten_advantages: bool) -> tuple[Tensor, Tensor]:
    assert episodes.values is not None
    advantages, returns = gae(
        episodes.rewards, episodes.values, episodes.mask, gamma=gamma, lam=lam, last_values=episodes.last_values
    )
    if whiten_advantages:
        advantages = whiten(advantages, episodes.mask, mean=True, std=True)
    return advantages, returns


def _td(episodes: Episodes, *, gamma: float) -> tuple[Tensor, Tensor]:
    """A2C: r + gamma V(s') - V(s), and the critic's target r + gamma V(s')."""
    return _gae(episodes, gamma=gamma, lam=0.0, whiten_advantages=False)


def _group(episodes: Episodes, *, scale_rewards: str) -> tuple[Tensor, None]:
    if episodes.step_ends is not None:
        advantages = group_step_advantages(
            episodes.rewards, episodes.step_ends, episodes.prompt, scale_rewards=scale_rewards
        )
        return torch.where(episodes.mask, advantages, 0.0), None
    return _spread(group_advantages(episodes.scores, episodes.prompt, scale_rewards=scale_rewards), episodes.mask), None


def _leave_one_out(episodes: Episodes) -> tuple[Tensor, None]:
    return _spread(leave_one_out(episodes.scores, episodes.prompt), episodes.mask), None


def _whitened_return(episodes: Episodes, *, gamma: float) -> tuple[Tensor, None]:
    """REINFORCE++ (Hu, arXiv:2501.03262, section 3): discounted rewards to come, normalised over the whole round."""
    to_come, _ = gae(episodes.rewards, torch.zeros_like(episodes.rewards), episodes.mask, gamma=gamma, lam=1.0)
    return whiten(to_come, episodes.mask, mean=True, std=True), None


def _spread(per_completion: Tensor, mask: Tensor) -> Tensor:
    """(S,) -> (S, L): each token gets its completion's advantage."""
    return torch.where(mask, per_completion[:, None], torch.zeros_like(per_completion)[:, None])


Advantage = Callable[..., tuple[Tensor, Tensor | None]]
ADVANTAGES: Mapping[str, Advantage] = {
    "gae": _gae,
    "td": _td,
    "group": _group,
    "leave_one_out": _leave_one_out,
    "whitened_return": _whitened_return,
}
"""Name in config/algorithms.py -> function of Episodes. Returns advantages (S, L) and the critic's targets, if any."""
