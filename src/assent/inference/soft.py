"""Soft best-of-N: keeps one of N samples with probability proportional to exp(score / temperature).

Verdun et al., arXiv:2505.03156. The sample with the largest score / temperature plus a standard Gumbel number has this
distribution, so soft best-of-N is best-of-N by perturbed scores. Its expected reward for every N comes from the same
curve, and the bound log N − (N − 1)/N holds for it too: perturbed scores never tie, and dropping the perturbation
cannot raise a KL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from assent.inference.best_of_n import Numbers
from assent.rollouts.sampler import SeedKey

_STEP = 0.05


def perturbed(scores: Sequence[float], *, temperature: float, seed: SeedKey, prompt: int) -> list[float]:
    """(N,) scores / temperature plus Gumbel numbers that are a function of the seed and the prompt's number."""
    uniforms = seed.uniforms(prompt, 0, len(scores)).astype(np.float64).clip(min=2.0**-25)
    return (np.asarray(scores, dtype=np.float64) / temperature - np.log(-np.log(uniforms))).tolist()


def soft_best_of_n_distribution(probabilities: Numbers, scores: Numbers, n: int, *, temperature: float) -> np.ndarray:
    """(Y,) float64: the exact distribution of soft best-of-n over Y outcomes with known probabilities and scores.

    With w = exp(score / temperature), P(y) = n p(y) w(y) E[1 / (w(y) + W)], where W is the sum of the other n − 1
    samples' w. With 1/x = ∫ exp(−tx) dt this is n p(y) w(y) ∫ exp(−t w(y)) (Σ_z p(z) exp(−t w(z)))^(n−1) dt. The
    trapezoidal rule in log t is exact to about 1e-12 here: the integrand is analytic and falls off at both ends.
    """
    p, score = np.asarray(probabilities, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if n < 1 or p.ndim != 1 or p.size == 0 or p.shape != score.shape or not temperature > 0:
        raise ValueError(
            f"n must be at least 1 and temperature above 0, with as many probabilities as scores: {n}, {temperature}"
        )
    if (p < 0).any() or abs(math.fsum(p) - 1.0) > 1e-6 or not np.isfinite(score).all():
        raise ValueError(f"probabilities must be at least 0 and sum to 1, and scores finite: the sum is {math.fsum(p)}")
    p = p / math.fsum(p)
    log_w = (score - score.max()) / temperature
    last = math.log(750.0) - float(log_w[p > 0].min())
    x = np.arange(-45.0, last, _STEP)
    q = np.zeros_like(p)
    for part in np.array_split(x, max(1, len(x) * len(p) // 1_000_000)):
        tw = np.exp(np.minimum(part[:, None] + log_w, 700.0))  # (X, Y): t w(y), finite
        others = (np.exp(-tw) @ p) ** (n - 1)
        q += _STEP * (tw * np.exp(-tw) * others[:, None]).sum(0)
    return n * p * q
