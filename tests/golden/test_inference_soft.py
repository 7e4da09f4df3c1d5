"""Soft best-of-N against all sequences of samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import chisquare

from assent.inference.best_of_n import best_index, best_of_n_distribution, best_of_n_kl_bound
from assent.inference.soft import perturbed, soft_best_of_n_distribution
from assent.rollouts.sampler import SeedKey
from assent.sandbox.microworld import MicroWorld

KEY = SeedKey(0, "soft", 0)


def by_sequences(p: list[float], scores: list[float], n: int, temperature: float) -> np.ndarray:
    q = np.zeros(len(p))
    for drawn in itertools.product(range(len(p)), repeat=n):
        weights = [math.exp((scores[y] - max(scores)) / temperature) for y in drawn]
        for y, weight in zip(drawn, weights, strict=True):
            q[y] += math.prod(p[z] for z in drawn) * weight / sum(weights)
    return q


@pytest.mark.parametrize("temperature", [0.05, 0.7, 20.0])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_distribution_is_that_of_all_sequences(n: int, temperature: float) -> None:
    for p, scores in (
        ([0.5, 0.3, 0.2], [0.0, 1.0, 0.4]),
        ([1e-6, 0.6, 0.4 - 1e-6], [2.0, 0.0, 0.0]),
        ([0.25] * 4, [1.0, 1.0, 0.0, 3.0]),
    ):
        q = soft_best_of_n_distribution(p, scores, n, temperature=temperature)
        np.testing.assert_allclose(q, by_sequences(p, scores, n, temperature), atol=1e-10)


def test_on_the_micro_world_it_goes_from_the_policy_to_best_of_n_and_to_the_tilted_optimum() -> None:
    world = MicroWorld(vocabulary=4, length=2, seed=1)
    p = np.exp(world.reference) / np.exp(world.reference).sum()
    cold = soft_best_of_n_distribution(p, world.reward, 6, temperature=1e-3)
    np.testing.assert_allclose(cold, best_of_n_distribution(p, world.reward, 6), atol=1e-9)
    hot = soft_best_of_n_distribution(p, world.reward, 6, temperature=1e7)
    np.testing.assert_allclose(hot, p, atol=1e-6)
    many = soft_best_of_n_distribution(p, world.reward, 4000, temperature=0.3)
    np.testing.assert_allclose(many, np.exp(world.optimum(0.3)[0]), atol=1e-3)  # temperature plays beta's part
    for temperature in (0.05, 0.3):
        q = soft_best_of_n_distribution(p, world.reward, 6, temperature=temperature)
        assert q.sum() == pytest.approx(1, abs=1e-10)
        assert 0 < (q * np.log(q / p)).sum() < best_of_n_kl_bound(6)


def test_perturbed_scores_choose_by_the_softmax() -> None:
    """Chi-square of 4,000 choices among three scores; the same seed chooses the same."""
    scores, temperature = [0.0, 0.5, 1.0], 0.5
    drawn = [best_index(perturbed(scores, temperature=temperature, seed=KEY, prompt=i)) for i in range(4000)]
    weights = np.exp(np.array(scores) / temperature)
    assert chisquare(np.bincount(drawn, minlength=3), weights / weights.sum() * 4000).pvalue > 1e-3
    again = [perturbed(scores, temperature=temperature, seed=KEY, prompt=7) for _ in range(2)]
    assert again[0] == again[1] != perturbed(scores, temperature=temperature, seed=KEY, prompt=8)


def test_what_cannot_be_is_refused() -> None:
    for p, scores, temperature in (([0.5], [1.0], 1.0), ([1.0], [1.0], 0.0), ([1.0], [math.inf], 1.0)):
        with pytest.raises(ValueError, match=r"temperature above 0|sum to 1"):
            soft_best_of_n_distribution(p, scores, 2, temperature=temperature)
