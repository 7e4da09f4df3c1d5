"""Best-of-N: sample N completions, keep the one the reward scores highest (Stiennon et al., arXiv:2009.01325).

Legend: P prompts, M samples of one prompt, N ≤ M of them among which the best is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Numbers = Sequence[float] | np.ndarray


def best_index(scores: Sequence[float]) -> int:
    """Where the highest score stands; of equal ones the first, which is a fair draw, for samples are exchangeable."""
    return max(range(len(scores)), key=scores.__getitem__)


def expected_best_of_n(scores: Numbers, *, values: Numbers | None = None) -> np.ndarray:
    """(M,): for N = 1 … M, the unbiased estimate from M samples of the expected `values` of the best-scored of N.

    scores (M,) choose; values (M,) are what is measured (a gold reward), the scores themselves where none are given.
    It is the mean over all subsets of N samples (Nakano et al., arXiv:2112.09332, appendix I): of the C(M, N) subsets,
    C(i - 1, N - 1) have their best at rank i. Samples of equal score share the mean of their values.
    """
    score = np.asarray(scores, dtype=np.float64)
    value = score if values is None else np.asarray(values, dtype=np.float64)
    if score.ndim != 1 or score.size == 0 or score.shape != value.shape:
        raise ValueError(f"scores and values must be of one length, at least 1: {score.shape} and {value.shape}")
    ascending = shared_by_ties(score, value)[np.argsort(score, kind="stable")]
    return np.array([chances_of_best(score.size, N) @ ascending for N in range(1, score.size + 1)])


def shared_by_ties(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(M,), (M,) -> (M,): samples of equal score are as likely to be kept, so each gets the mean of their values."""
    _, tied = np.unique(scores, return_inverse=True)
    return (np.bincount(tied, weights=values) / np.bincount(tied))[tied]


def chances_of_best(m: int, n: int) -> np.ndarray:
    """(M,) by rank, ascending: the chance that the best of a random subset of n of m samples has this rank."""
    rank = np.arange(m, 0, -1)  # from the best down
    # C(i-1, n-1) / C(m, n) is n / m at i = m, and falls by (i - n) / (i - 1) from rank i to rank i - 1
    steps = np.maximum(rank[:-1] - n, 0) / np.maximum(rank[:-1] - 1, 1)
    return (n / m * np.cumprod(np.concatenate([[1.0], steps])))[::-1]


def best_of_n_distribution(probabilities: Numbers, scores: Numbers, n: int) -> np.ndarray:
    """(Y,) float64: the exact distribution of best-of-n over Y outcomes of known probability and score.

    With F(y) the mass of scores below y's and m(y) of scores equal to it, the best falls among y's equals with
    probability (F + m)^n - F^n; among equals the first one sampled is kept, so each has its share of m.
    """
    p, classes, chosen, mass = _classes(probabilities, scores, n)
    share = np.divide(chosen, mass, out=np.zeros_like(chosen), where=mass > 0)
    return p * share[classes]


def best_of_n_kl(probabilities: Numbers, scores: Numbers, n: int) -> float:
    """Exact KL(best-of-n || policy) in nats, by enumeration: the sum over classes of equal score of Q log(Q / m)."""
    _, _, chosen, mass = _classes(probabilities, scores, n)
    some = chosen > 0
    return math.fsum(chosen[some] * np.log(chosen[some] / mass[some]))


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n nats: an upper bound of the KL, reached only where no two samples score alike.

    Beirami et al., arXiv:2401.01879, theorem 1. For a discrete policy of low entropy it is far above the truth; use
    `best_of_n_kl` where outcomes can be enumerated.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return math.log(n) - (n - 1) / n


def _classes(probabilities: Numbers, scores: Numbers, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (Y,), the class of equal score of each (Y,), and by class, ascending: P(best is there), mass."""
    p, score = np.asarray(probabilities, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if n < 1 or p.ndim != 1 or p.size == 0 or p.shape != score.shape:
        raise ValueError(f"n at least 1, and as many probabilities as scores: n {n}, {p.shape}, {score.shape}")
    if (p < 0).any() or abs(math.fsum(p) - 1.0) > 1e-6 or np.isnan(score).any():
        raise ValueError(f"probabilities must be at least 0 and sum to 1, scores not NaN: the sum is {math.fsum(p)}")
    p = p / math.fsum(p)
    _, classes = np.unique(score, return_inverse=True)
    mass = np.bincount(classes, weights=p)
    up_to = np.minimum(np.cumsum(mass), 1.0)
    up_to[-1] = 1.0
    # (F + m)^n - F^n without the cancellation of two near-equal powers
    some = mass > 0
    chosen = np.zeros_like(mass)
    with np.errstate(divide="ignore"):  # the lowest class: log(0), expm1(-inf) = -1
        below = np.log1p(-np.minimum(mass[some] / up_to[some], 1.0))
    chosen[some] = up_to[some] ** n * -np.expm1(n * below)
    return p, classes, chosen, mass
