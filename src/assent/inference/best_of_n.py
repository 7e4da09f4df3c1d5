"""Best-of-N: samples N completions and keeps the one with the highest reward (Stiennon et al., arXiv:2009.01325).

Legend: P prompts, M samples for one prompt; the best of N ≤ M of them is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Numbers = Sequence[float] | np.ndarray


def best_index(scores: Sequence[float]) -> int:
    """Index of the highest score. The first of equal scores is a fair draw, because samples are exchangeable."""
    return max(range(len(scores)), key=scores.__getitem__)


def expected_best_of_n(scores: Numbers, *, values: Numbers | None = None) -> np.ndarray:
    """(M,): for N = 1 … M, an unbiased estimate of the expected value of the highest-scoring of N samples.

    scores   (M,) by which the best is chosen
    values   (M,) what is measured (a gold reward); None: the scores themselves

    It is the mean over all subsets of N samples (Nakano et al., arXiv:2112.09332, appendix I): C(i - 1, N - 1) of the
    C(M, N) subsets have their best at rank i. Samples with equal scores share the mean of their values.
    """
    score = np.asarray(scores, dtype=np.float64)
    value = score if values is None else np.asarray(values, dtype=np.float64)
    if score.ndim != 1 or score.size == 0 or score.shape != value.shape:
        raise ValueError(f"scores and values must have the same length, at least 1: {score.shape} and {value.shape}")
    ascending = shared_by_ties(score, value)[np.argsort(score, kind="stable")]
    return np.array([chances_of_best(score.size, N) @ ascending for N in range(1, score.size + 1)])


def shared_by_ties(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(M,), (M,) -> (M,): samples with equal scores are equally likely to be kept, so each gets their mean value."""
    _, tied = np.unique(scores, return_inverse=True)
    return (np.bincount(tied, weights=values) / np.bincount(tied))[tied]


def chances_of_best(m: int, n: int) -> np.ndarray:
    """(M,) by ascending rank: the probability that the best of a random n of the m samples has this rank."""
    rank = np.arange(m, 0, -1)  # from the best down
    # C(i-1, n-1) / C(m, n) is n / m at i = m; from rank i to rank i - 1 it is multiplied by (i - n) / (i - 1)
    steps = np.maximum(rank[:-1] - n, 0) / np.maximum(rank[:-1] - 1, 1)
    return (n / m * np.cumprod(np.concatenate([[1.0], steps])))[::-1]


def best_of_n_distribution(probabilities: Numbers, scores: Numbers, n: int) -> np.ndarray:
    """(Y,) float64: the exact distribution of best-of-n over Y outcomes with known probabilities and scores.

    Let F(y) be the mass of scores below that of y, and m(y) the mass of scores equal to it. The best has y's score with
    probability (F + m)^n - F^n. The first of equal samples is kept, so each outcome has its share of m.
    """
    p, classes, chosen, mass = _classes(probabilities, scores, n)
    share = np.divide(chosen, mass, out=np.zeros_like(chosen), where=mass > 0)
    return p * share[classes]


def best_of_n_kl(probabilities: Numbers, scores: Numbers, n: int) -> float:
    """Exact KL(best-of-n || policy) in nats, by enumeration: the sum of Q log(Q / m) over classes of equal score."""
    _, _, chosen, mass = _classes(probabilities, scores, n)
    some = chosen > 0
    return math.fsum(chosen[some] * np.log(chosen[some] / mass[some]))


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n nats: an upper bound of the KL, reached only if no two samples have equal scores.

    Beirami et al., arXiv:2401.01879, theorem 1. For a discrete policy with low entropy it is far above the KL; use
    `best_of_n_kl` if outcomes can be enumerated.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return math.log(n) - (n - 1) / n


def _classes(probabilities: Numbers, scores: Numbers, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (Y,), each one's class of equal score (Y,), and by class, ascending: P(best is in it), mass."""
    p, score = np.asarray(probabilities, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if n < 1 or p.ndim != 1 or p.size == 0 or p.shape != score.shape:
        raise ValueError(f"n must be at least 1, with as many probabilities as scores: n {n}, {p.shape}, {score.shape}")
    if (p < 0).any() or abs(math.fsum(p) - 1.0) > 1e-6 or np.isnan(score).any():
        raise ValueError(
            f"probabilities must be at least 0 and sum to 1, and scores not NaN: the sum is {math.fsum(p)}"
        )
    p = p / math.fsum(p)
    _, classes = np.unique(score, return_inverse=True)
    mass = np.bincount(classes, weights=p)
    up_to = np.minimum(np.cumsum(mass), 1.0)
    up_to[-1] = 1.0
    # (F + m)^n - F^n, without cancellation of two nearly equal powers
    some = mass > 0
    chosen = np.zeros_like(mass)
    with np.errstate(divide="ignore"):  # the lowest class: log(0), expm1(-inf) = -1
        below = np.log1p(-np.minimum(mass[some] / up_to[some], 1.0))
    chosen[some] = up_to[some] ** n * -np.expm1(n * below)
    return p, classes, chosen, mass
