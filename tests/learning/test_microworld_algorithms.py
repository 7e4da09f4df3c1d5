"""Where each algorithm ends, in a world small enough to know it: TV is the total variation to the optimum.

A policy is a table of logits, one row for each state; all else is the package's: episodes, advantages, objectives. With
the KL in the reward the optimum is pi_ref exp(r / B) / Z. With the KL in the loss, token by token, it is not: what a
token does to the KL of later ones is left out, so that each state's optimum is pi_ref exp(Q / B) / Z, Q the mean
reward to come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from assent.objectives.advantages import ADVANTAGES, Episodes, token_rewards
from assent.objectives.kl import kl, kl_loss
from assent.objectives.policy import POLICY_OBJECTIVES
from assent.objectives.value import VALUE_OBJECTIVES
from assent.sandbox.microworld import MicroWorld

F64 = torch.float64
BETA = 0.5


@dataclass
class Table:
    """A policy (or a critic) over the world's states: the row of the token before, or of the end at the start."""

    world: MicroWorld

    def __post_init__(self) -> None:
        assert self.world.length <= 2, "a completion's state is the token before it"
        self.tokens = torch.tensor(self.world.completions)
        before = torch.roll(self.tokens, 1, dims=1)
        before[:, 0] = self.world.end
        self.states = before
        ended = (self.tokens == self.world.end).cumsum(1)
        self.mask = torch.cat([torch.ones(len(ended), 1, dtype=torch.bool), ended[:, :-1] == 0], dim=1)
        self.reference = torch.tensor(self.world.transitions)
        self.reward = torch.tensor(self.world.reward)

    def tokenwise(self, logits: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """(S, L): log-probability of each token of completions `rows`, zero behind the end."""
        logp = logits.log_softmax(1)[self.states[rows], self.tokens[rows]]
        return torch.where(self.mask[rows], logp, 0.0)

    def distance(self, logits: Tensor, optimum: np.ndarray) -> float:
        found = self.tokenwise(logits).sum(1).exp().detach().numpy()
        return float(np.abs(found - np.exp(optimum)).sum() / 2)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    advantage: str
    advantage_options: dict[str, object]
    policy: str = "clip"
    epochs: int = 1
    completions: int = 8
    value: str | None = None
    kl_penalty: str = "reward"
    beta: float = BETA


def train(table: Table, recipe: Recipe, *, steps: int = 300, prompts: int = 256, seed: int = 0) -> Tensor:
    """The policy's logits after so many rounds of sampling and training; the rate falls to zero."""
    generator = torch.Generator().manual_seed(seed)
    logits, values = table.reference.clone().requires_grad_(), torch.zeros(table.world.vocabulary, dtype=F64)
    values.requires_grad_()
    policy_steps, value_steps = torch.optim.Adam([logits], lr=0.05), torch.optim.Adam([values], lr=0.1)
    for step in range(steps):
        for group in policy_steps.param_groups + value_steps.param_groups:
            group["lr"] *= 1 - 1 / (steps - step) if step else 1
        with torch.no_grad():
            chance = table.tokenwise(logits).sum(1).exp()
        rows = torch.multinomial(chance, prompts * recipe.completions, replacement=True, generator=generator)
        episodes, old = episode_of(table, recipe, logits, values, rows)
        options = {} if recipe.policy == "policy_gradient" else {"cliprange": 0.2}
        for _ in range(recipe.epochs):
            advantages, returns = ADVANTAGES[recipe.advantage](episodes, **recipe.advantage_options)
            logprobs = table.tokenwise(logits, rows)
            loss, _ = POLICY_OBJECTIVES[recipe.policy](logprobs, old, advantages, episodes.mask, **options)
            if recipe.kl_penalty != "reward":
                anchor = table.tokenwise(table.reference, rows)
                loss = loss + recipe.beta * kl_loss(recipe.kl_penalty, logprobs, anchor, old)
            policy_steps.zero_grad()
            (loss.sum() / len(rows)).backward()
            policy_steps.step()
            if recipe.value and returns is not None and episodes.values is not None:
                read = torch.where(episodes.mask, values[table.states[rows]], 0.0)
                error, _ = VALUE_OBJECTIVES[recipe.value](read, episodes.values, returns, episodes.mask)
                value_steps.zero_grad()
                (error.sum() / len(rows)).backward()
                value_steps.step()
    return logits.detach()


def episode_of(table: Table, recipe: Recipe, logits: Tensor, values: Tensor, rows: Tensor) -> tuple[Episodes, Tensor]:
    mask = table.mask[rows]
    old = table.tokenwise(logits, rows).detach()
    divergence = kl("k1", old, table.tokenwise(table.reference, rows))
    in_reward = recipe.beta if recipe.kl_penalty == "reward" else 0.0
    episodes = Episodes(
        rewards=token_rewards(divergence, table.reward[rows], mask, kl_coef=in_reward),
        mask=mask,
        prompt=torch.arange(len(rows)) // recipe.completions,
        values=torch.where(mask, values[table.states[rows]], 0.0).detach() if recipe.value else None,
    )
    return episodes, old


GAE = {"gamma": 1.0, "lam": 0.95, "whiten_advantages": True}
TILTED = {
    "ppo": Recipe(advantage="gae", advantage_options=GAE, epochs=2, value="clipped"),
    "a2c": Recipe(advantage="td", advantage_options={"gamma": 1.0}, policy="policy_gradient", value="squared_error"),
    "rloo": Recipe(advantage="leave_one_out", advantage_options={}),
    "reinforce++": Recipe(advantage="whitened_return", advantage_options={"gamma": 1.0}),
    "grpo without std": Recipe(advantage="group", advantage_options={"scale_rewards": "none"}),
}


@pytest.mark.parametrize("name", TILTED)
def test_with_the_kl_in_the_reward_the_tilted_reference_is_reached(name: str) -> None:
    table = Table(MicroWorld(vocabulary=4, length=2, seed=1))
    optimum, _ = table.world.optimum(BETA)
    assert table.distance(table.reference, optimum) > 0.15
    assert table.distance(train(table, TILTED[name]), optimum) <= 0.02


def by_state(table: Table, beta: float) -> np.ndarray:
    """(S,) log-probabilities where each state's policy is pi_ref exp(Q / beta) / Z, from the last token back."""
    world = table.world
    reward = {tuple(row): value for row, value in zip(world.completions.tolist(), world.reward, strict=True)}
    policy, value = np.zeros_like(world.transitions), {}
    for first in range(world.vocabulary):
        if first == world.end:
            value[first] = reward[first, first]
            continue
        to_come = np.array([reward[first, second] for second in range(world.vocabulary)])
        policy[first] = _tilted(world.transitions[first], to_come / beta)
        value[first] = float(np.exp(policy[first]) @ to_come)
    start = np.array([value[first] for first in range(world.vocabulary)])
    policy[world.end] = _tilted(world.transitions[world.end], start / beta)
    return table.tokenwise(torch.tensor(policy)).sum(1).numpy()


def _tilted(reference: np.ndarray, by: np.ndarray) -> np.ndarray:
    raw = reference + by
    return raw - np.log(np.exp(raw).sum())


@pytest.mark.parametrize("penalty", ["k2", "k3+"])
def test_with_the_kl_in_the_loss_each_state_tilts_by_its_mean_reward(penalty: str) -> None:
    table = Table(MicroWorld(vocabulary=4, length=2, seed=1))
    recipe = Recipe(advantage="leave_one_out", advantage_options={}, kl_penalty=penalty, beta=0.15)
    optimum, _ = table.world.optimum(recipe.beta)
    stated = by_state(table, recipe.beta)
    found = train(table, recipe)
    assert table.distance(found, stated) <= 0.02
    assert np.abs(np.exp(stated) - np.exp(optimum)).sum() / 2 > 0.03  # another policy than with the KL in the reward


def fixed_point(table: Table, tilt: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """log of the policy p with p = tilt(standardised reward under p), normalised."""
    reward, log_p = table.world.reward, table.world.reference
    for _ in range(500):
        p = np.exp(log_p)
        mean = p @ reward
        z = (reward - mean) / np.sqrt(p @ (reward - mean) ** 2)
        raw = 0.5 * log_p + 0.5 * (table.world.reference + tilt(z))
        log_p = raw - np.log(np.exp(raw).sum())
    return log_p


BANDIT = MicroWorld(vocabulary=6, length=1, seed=2)
LARGE = 512
"""Completions of a group: so many that its mean and deviation are the policy's."""


def grpo(scale: str, penalty: str, beta: float) -> Recipe:
    options: dict[str, object] = {"scale_rewards": scale}
    return Recipe(advantage="group", advantage_options=options, completions=LARGE, kl_penalty=penalty, beta=beta)


@pytest.mark.parametrize("penalty", ["k2", "k3+"])
def test_grpo_tilts_by_the_reward_over_its_deviation(penalty: str) -> None:
    table, beta = Table(BANDIT), 1.5
    found = train(table, grpo("group", penalty, beta), prompts=8)
    stated = fixed_point(table, lambda z: z / beta)
    assert table.distance(found, stated) <= 0.02
    plain, _ = table.world.optimum(beta)
    assert table.distance(found, plain) > 0.1  # sigma is about a quarter: the pull is four times weaker
    without = train(table, grpo("none", penalty, beta), prompts=8)
    assert table.distance(without, plain) <= 0.02


def test_grpos_own_k3_has_another_optimum() -> None:
    """Its gradient is that of KL(reference || policy), so A = B (1 - pi_ref / pi): pi = pi_ref / (1 - A / B)."""
    table, beta = Table(BANDIT), 1.5
    found = train(table, grpo("group", "k3", beta), prompts=8)
    stated = fixed_point(table, lambda z: -np.log1p(-z / beta))
    assert table.distance(found, stated) <= 0.02
    assert np.abs(np.exp(stated) - np.exp(fixed_point(table, lambda z: z / beta))).sum() / 2 > 0.06


ESTIMATES = {
    "rloo": (Recipe(advantage="leave_one_out", advantage_options={}, completions=4), 1.0),
    "grpo without std": (Recipe(advantage="group", advantage_options={"scale_rewards": "none"}, completions=4), 0.75),
    "gae, lam 1": (Recipe(advantage="gae", advantage_options={**GAE, "lam": 1.0, "whiten_advantages": False},
                          value="clipped"), 1.0),
    "a2c": (Recipe(advantage="td", advantage_options={"gamma": 1.0}, policy="policy_gradient", value="clipped"), 1.0),
    "reinforce++": (TILTED["reinforce++"], 1.0),
}  # fmt: skip
"""And what each is an estimate of, as a share of the gradient: a group's mean holds the completion itself, 1 - 1/K.
REINFORCE++'s is over the deviation of the round's returns, which is taken back."""


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_policy_gradient_is_the_exact_one_to_its_standard_error(name: str) -> None:
    """The exact one by enumeration, at a policy away from reference and optimum; the critic of td is exact."""
    table = Table(MicroWorld(vocabulary=4, length=2, seed=1))
    recipe, share = ESTIMATES[name]
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 4, generator=generator, dtype=F64).requires_grad_()
    logp = table.tokenwise(logits)
    total = logp.sum(1)
    gain = table.reward - BETA * (total - table.tokenwise(table.reference).sum(1))
    (exact,) = torch.autograd.grad((total.exp() * gain).sum(), logits)
    values = exact_values(table, logits.detach()) if name == "a2c" else torch.randn(4, generator=generator, dtype=F64)
    estimates = []
    for _ in range(250):
        rows = torch.multinomial(total.detach().exp(), 64, replacement=True, generator=generator)
        episodes, old = episode_of(table, recipe, logits, values, rows)
        advantages, _ = ADVANTAGES[recipe.advantage](episodes, **recipe.advantage_options)
        if name == "reinforce++":
            to_come = episodes.rewards.flip(1).cumsum(1).flip(1)[episodes.mask]
            advantages = advantages * to_come.std(correction=0)
        options = {} if recipe.policy == "policy_gradient" else {"cliprange": 0.2}
        loss, _ = POLICY_OBJECTIVES[recipe.policy](
            table.tokenwise(logits, rows), old, advantages, episodes.mask, **options
        )
        estimates.append(torch.autograd.grad(-loss.sum() / len(rows), logits)[0])
    found = torch.stack(estimates)
    error = found.std(0) / len(found) ** 0.5
    deviations = (found.mean(0) - share * exact) / error.clamp(min=1e-12)
    assert deviations.abs().max() < 4.0
    assert exact.abs().max() > 10 * error.max()  # an estimate of zero would not pass


def exact_values(table: Table, logits: Tensor) -> Tensor:
    """(V,): mean of what is still to come from each state, KL included."""
    logp = table.tokenwise(logits)
    total = logp.sum(1).exp()
    cost = BETA * (logp - table.tokenwise(table.reference))
    last = table.mask.sum(1) - 1
    rewards = -cost
    rewards[torch.arange(len(last)), last] += table.reward
    values = torch.zeros(table.world.vocabulary, dtype=F64)
    for state in range(table.world.vocabulary):
        if state == table.world.end:
            values[state] = (total * rewards.sum(1)).sum()
            continue
        here = table.mask[:, 1] & (table.states[:, 1] == state)
        values[state] = (total * rewards[:, 1])[here].sum() / total[here].sum()
    return values
