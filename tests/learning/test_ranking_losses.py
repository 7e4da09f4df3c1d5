"""Each loss of rankings, on labels drawn from its own model, recovers the linear reward that the labels came from; on
shuffled labels it recovers nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from assent.config.losses import RANKING_LOSSES
from assent.objectives import ranking_loss

TRUTH = torch.tensor([1.0, -0.5, 0.0, 2.0], dtype=torch.float64)
GROUPS = 3000


def drawn(loss: str, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, 4), ranks (N,) and groups (N,): rankings of four by Plackett–Luce, or comparisons with ties."""
    generator = torch.Generator().manual_seed(seed)
    size = 4 if loss in ("plackett_luce", "all_pairs") else 2
    features = torch.randn(GROUPS, size, len(TRUTH), generator=generator, dtype=torch.float64)
    reward = features @ TRUTH
    if loss in ("davidson", "rao_kupper"):
        d, u = reward[:, 0] - reward[:, 1], torch.rand(GROUPS, generator=generator, dtype=torch.float64)
        if loss == "davidson":  # ν = 1
            total = (d / 2).exp() + (-d / 2).exp() + 1.0
            first, second = (d / 2).exp() / total, (-d / 2).exp() / total
        else:  # θ = 1.5
            first, second = (torch.sigmoid(sign * d - math.log(1.5)) for sign in (1, -1))
        outcome = (u >= first).long() + (u >= first + second).long()  # first wins, second wins, tie
        ranks = torch.tensor([[1, 2], [2, 1], [1, 1]])[outcome]
    else:  # the order of scores with Gumbel noise is Plackett–Luce's, and each of its pairs Bradley–Terry's
        noise = -(-torch.rand(GROUPS, size, generator=generator, dtype=torch.float64).log()).log()
        ranks = (-(reward + noise)).argsort(1).argsort(1) + 1
    group = torch.arange(GROUPS).repeat_interleave(size)
    return features.flatten(0, 1), ranks.flatten(), group


def fitted(loss: str, features: Tensor, ranks: Tensor, group: Tensor) -> Tensor:
    weights = torch.zeros(len(TRUTH), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")
    hyperparameters = RANKING_LOSSES[loss].resolve({})

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = ranking_loss(loss, scores=features @ weights, ranks=ranks, group=group, **hyperparameters)[0].mean()
        value.backward()
        return value

    optimiser.step(closure)
    return weights.detach()


@pytest.mark.parametrize("loss", RANKING_LOSSES)
def test_a_known_reward_is_recovered_and_from_shuffled_labels_it_is_not(loss: str) -> None:
    features, ranks, group = drawn(loss, seed=0)
    torch.testing.assert_close(fitted(loss, features, ranks, group), TRUTH, atol=0.15, rtol=0)
    shuffled = ranks.view(GROUPS, -1)[torch.randperm(GROUPS, generator=torch.Generator().manual_seed(1))].flatten()
    assert fitted(loss, features, shuffled, group).abs().max() < 0.15
