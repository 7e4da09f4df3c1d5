"""Case 4: the implicit reward beta * log(policy / reference), beside a trained reward model and gold.

The world is a micro-world in which every completion is enumerated, so accuracies and best-of-N are exact expectations.
Both learners get the same labelled pairs, drawn from the reference, and the same features (which token follows which).
The policy learns by DPO's loss, the reward model by Bradley-Terry's. "In distribution" means pairs that the reference
would draw. "Out of distribution" means pairs drawn evenly from completions that the reference hardly ever gives.

    python examples/cases/04_implicit_reward.py
"""

from __future__ import annotations

from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from assent.objectives import bradley_terry, preference_loss
from assent.sandbox.microworld import MicroWorld

BETA, SCALE, PAIRS, STEPS, RATE = 0.1, 8.0, 400, 300, 0.05
NS = (4, 16, 64)
WORLDS = (0, 1, 2)


class Answer(NamedTuple):
    """One way to score: pair accuracy in and out of distribution, and mean gold of the best of N, for each N."""

    inside: float
    outside: float
    best_of: tuple[float, ...]


def main() -> dict[str, Answer]:
    worlds = [in_one_world(seed) for seed in WORLDS]
    print(f"Means over {len(WORLDS)} worlds with {PAIRS} labelled pairs each; gold is between 0 and 1.\n")
    print(f"{'':<18}{'in distribution':>16}{'out of it':>12}" + "".join(f"{f'best of {n}':>12}" for n in NS))
    found = {}
    for name in worlds[0][0]:
        answers = [answers[name] for answers, _, _ in worlds]
        best = tuple(map(mean, zip(*(answer.best_of for answer in answers), strict=True)))
        answer = Answer(mean(a.inside for a in answers), mean(a.outside for a in answers), best)
        found[name] = answer
        print(f"{name:<18}{answer.inside:>16.3f}{answer.outside:>12.3f}" + "".join(f"{gold:>12.3f}" for gold in best))
    gold, kl = mean(policy for _, policy, _ in worlds), mean(kl for _, _, kl in worlds)
    implicit, model = found["implicit reward"], found["reward model"]
    lost, lost_model = implicit.inside - implicit.outside, model.inside - model.outside
    print(
        f"\nThe policy itself: gold {gold:.3f} at {kl:.2f} nats from the reference.\n"
        f"The implicit reward is usable as one: it ranks {100 * implicit.inside:.0f}% of the reference's pairs as gold "
        f"does (the\nreward model {100 * model.inside:.0f}%), and chooses among its samples. Out of distribution it "
        f"loses {100 * lost:.0f} points,\nthe reward model {100 * lost_model:.0f}: held-out accuracy does not show it."
    )
    return found


def in_one_world(seed: int) -> tuple[dict[str, Answer], float, float]:
    """Returns the answers by name, and the policy's mean gold and KL."""
    world = MicroWorld(vocabulary=6, length=4, seed=seed)
    rng = np.random.default_rng([seed, 3])
    p = np.exp(world.reference)
    first, second = rng.choice(len(p), size=(2, PAIRS), p=p / p.sum())
    wins = rng.random(PAIRS) < 1 / (1 + np.exp(-SCALE * (world.reward[first] - world.reward[second])))
    chosen, rejected = torch.tensor(np.where(wins, (first, second), (second, first)))
    policy = learn_policy(world, chosen, rejected)
    scores = {
        "reference": np.zeros(len(p)),  # scores that say nothing: the best of N is any of them
        "implicit reward": BETA * (policy - world.reference),
        "reward model": learn_reward(world, chosen, rejected),
        "gold": world.reward,
    }
    rare = (p < np.median(p)) / (p < np.median(p)).sum()
    found = {
        name: Answer(
            accuracy(score, world.reward, p),
            accuracy(score, world.reward, rare),
            tuple(world.mean_reward(world.best_of(n, score)) for n in NS),
        )
        for name, score in scores.items()
    }
    return found, world.mean_reward(policy), world.kl(policy, world.reference)


def accuracy(score: np.ndarray, gold: np.ndarray, weights: np.ndarray) -> float:
    """Share of pairs, drawn by `weights`, that `score` orders as gold does.

    Pairs that gold ties are left out; pairs that `score` ties count half.
    """
    better = gold[:, None] > gold[None, :]
    right = 0.5 * (1 + np.sign(np.round(score[:, None] - score[None, :], 12)))
    pairs = better * np.outer(weights, weights)
    return float((right * pairs).sum() / pairs.sum())


def transitions(world: MicroWorld) -> Tensor:
    """(S, V * V) how often each token follows each other token. The end token's row is also the start."""
    rows, v = world.completions, world.vocabulary
    counts = np.zeros((len(rows), v * v))
    before, alive = np.full(len(rows), world.end), np.ones(len(rows), dtype=bool)
    for place in range(world.length):
        np.add.at(counts, (np.flatnonzero(alive), (before * v + rows[:, place])[alive]), 1)
        alive &= rows[:, place] != world.end
        before = rows[:, place]
    return torch.tensor(counts)


def learn_policy(world: MicroWorld, chosen: Tensor, rejected: Tensor) -> np.ndarray:
    """(S,) log-probabilities of a chain over tokens, trained by DPO from the reference."""
    counts, reference = transitions(world), torch.tensor(world.reference)
    logits = torch.tensor(world.transitions).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=RATE)
    for _ in range(STEPS):
        logps = counts @ logits.log_softmax(1).flatten()
        values, _ = preference_loss(
            "sigmoid",
            chosen=logps[chosen],
            rejected=logps[rejected],
            reference_chosen=reference[chosen],
            reference_rejected=reference[rejected],
            beta=BETA,
        )
        optimiser.zero_grad()
        values.mean().backward()
        optimiser.step()
    return (counts @ logits.log_softmax(1).flatten()).detach().numpy()


def learn_reward(world: MicroWorld, chosen: Tensor, rejected: Tensor) -> np.ndarray:
    """(S,) scores of a linear reward model on the same features."""
    counts = transitions(world)
    weights = torch.zeros(counts.shape[1], dtype=counts.dtype, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=RATE)
    for _ in range(STEPS):
        scores = counts @ weights
        optimiser.zero_grad()
        bradley_terry(scores[chosen], scores[rejected]).mean().backward()
        optimiser.step()
    return (counts @ weights).detach().numpy()


if __name__ == "__main__":
    main()
