"""The micro-world against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from assent.errors import ConfigError
from assent.sandbox.microworld import MicroWorld


@pytest.fixture
def world() -> MicroWorld:
    return MicroWorld(vocabulary=4, length=3, seed=1)


def test_completions_are_all_and_their_probabilities_sum_to_one(world: MicroWorld) -> None:
    rows = {tuple(r) for r in world.completions.tolist()}
    brute = {
        tuple(token if world.end not in w[:i] else world.end for i, token in enumerate(w))
        for w in itertools.product(range(4), repeat=3)
    }
    assert rows == brute
    assert len(rows) == len(world.completions)
    assert np.exp(world.reference).sum() == pytest.approx(1.0, abs=1e-12)


def test_reference_is_the_product_of_transitions(world: MicroWorld) -> None:
    for row, value in zip(world.completions.tolist(), world.reference, strict=True):
        total, before = 0.0, world.end
        for token in row:
            total += world.transitions[before, token]
            if token == world.end:
                break
            before = token
        assert value == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
def test_the_optimum_beats_every_policy_near_it(world: MicroWorld, beta: float) -> None:
    best, log_z = world.optimum(beta)
    objective = world.mean_reward(best) - beta * world.kl(best, world.reference)
    assert objective == pytest.approx(beta * log_z, abs=1e-12)  # the value of the optimum is β log Z
    rng = np.random.default_rng(0)
    for _ in range(50):
        other = best + 0.1 * rng.normal(size=best.shape)
        other -= np.log(np.exp(other).sum())
        assert world.mean_reward(other) - beta * world.kl(other, world.reference) < objective


def test_implicit_reward_gives_back_the_preference(world: MicroWorld) -> None:
    best, _ = world.optimum(0.3)
    implicit = 0.3 * (best - world.reference)
    assert 1 / (1 + math.exp(implicit[7] - implicit[2])) == pytest.approx(world.preference(2, 7), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_against_all_draws(n: int) -> None:
    world = MicroWorld(vocabulary=3, length=2, seed=0)
    p = np.exp(world.reference)
    assert len(np.unique(world.reward)) < len(p)  # ties occur
    exact = np.zeros(len(p))
    for draw in itertools.product(range(len(p)), repeat=n):
        top = max(world.reward[i] for i in draw)
        winners = [i for i in draw if world.reward[i] == top]
        for i in winners:
            exact[i] += np.prod(p[list(draw)]) / len(winners)
    best = world.best_of(n)
    assert np.exp(best) == pytest.approx(exact, abs=1e-12)
    assert world.kl(best, world.reference) <= math.log(n) - (n - 1) / n + 1e-12


def test_the_largest_world_is_enumerable_and_larger_is_refused() -> None:
    world = MicroWorld(vocabulary=32, length=3)
    assert np.exp(world.best_of(16)).sum() == pytest.approx(1.0, abs=1e-9)
    for vocabulary, length in ((33, 2), (4, 5), (1, 2)):
        with pytest.raises(ConfigError):
            MicroWorld(vocabulary=vocabulary, length=length)
