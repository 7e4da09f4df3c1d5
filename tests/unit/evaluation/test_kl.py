"""KL estimators against enumeration of a small tabular language model."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from assent.errors import DataError
from assent.evaluation.kl import kl_estimates

EOS, VOCABULARY, LONGEST = 0, 4, 3


def table(seed: int) -> dict[tuple[int, ...], np.ndarray]:
    """Next-token log-probabilities after every prefix."""
    generator = np.random.default_rng(seed)
    prefixes = [p for n in range(LONGEST) for p in itertools.product(range(1, VOCABULARY), repeat=n)]
    logits = {p: generator.normal(0, 0.8, VOCABULARY) for p in prefixes}
    return {p: x - np.log(np.exp(x).sum()) for p, x in logits.items()}


def completions() -> list[tuple[int, ...]]:
    ended = [(*p, EOS) for n in range(LONGEST) for p in itertools.product(range(1, VOCABULARY), repeat=n)]
    return ended + list(itertools.product(range(1, VOCABULARY), repeat=LONGEST))


def token_logprobs(model: dict[tuple[int, ...], np.ndarray], ids: tuple[int, ...]) -> list[float]:
    return [float(model[ids[:t]][token]) for t, token in enumerate(ids)]


def test_estimators_agree_with_enumeration_within_their_standard_error():
    policy, reference = table(0), table(1)
    space = completions()
    logp = np.array([sum(token_logprobs(policy, c)) for c in space])
    logq = np.array([sum(token_logprobs(reference, c)) for c in space])
    probability = np.exp(logp)
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    exact = float((probability * (logp - logq)).sum())

    drawn = np.random.default_rng(2).choice(len(space), size=4000, p=probability)
    samples = [space[i] for i in drawn]
    kl = kl_estimates([token_logprobs(policy, s) for s in samples], [token_logprobs(reference, s) for s in samples])
    for estimate in (kl.k1, kl.k3):
        assert abs(estimate.value - exact) < 3 * estimate.standard_error
        assert estimate.standard_error < 0.05 * exact
        assert estimate.n == 4000


def test_by_hand_in_nats_per_completion():
    kl = kl_estimates([[-1.0, -2.0], [-0.5]], [[-1.5, -1.0], [-0.5]])
    assert kl.k1.value == pytest.approx((0.5 - 1.0 + 0.0) / 2)
    assert kl.k3.value == pytest.approx(((math.exp(-0.5) - 1 + 0.5) + (math.exp(1) - 1 - 1)) / 2)


def test_the_prompt_is_the_unit():
    policy, reference = [[-1.0]] * 4 + [[-2.0]] * 4, [[-1.5]] * 8
    clustered = kl_estimates(policy, reference, clusters=[0] * 4 + [1] * 4)
    assert clustered.k1.clusters == 2
    assert clustered.k1.standard_error > 1.5 * kl_estimates(policy, reference).k1.standard_error


def test_unequal_lengths_are_refused():
    with pytest.raises(DataError, match="completion 1"):
        kl_estimates([[-1.0], [-1.0, -2.0]], [[-1.0], [-1.0]])
    with pytest.raises(DataError, match="every completion"):
        kl_estimates([[-1.0]], [])
