"""What best-of-N gives for every N, from one set of samples: reward, gain and KL with intervals; the N for a gain.

Legend: P prompts, M samples of one prompt, N ≤ M of them among which the best is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assent.errors import DataError
from assent.evaluation.intervals import Clusters, Estimate, mean_interval
from assent.inference.best_of_n import Numbers, best_of_n_kl_bound, chances_of_best, expected_best_of_n

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Best of `n`, mean over prompts; every interval is over prompts."""

    n: int
    score: Estimate
    gain: Estimate
    """Score less that of a single sample."""
    kl: Estimate | None
    """KL(best-of-n || what was sampled from) in nats, an estimate; None where only the bound is known."""
    kl_bound: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "score": self.score.as_dict(),
            "gain": self.gain.as_dict(),
            "kl_nats": None if self.kl is None else self.kl.as_dict(),
            "kl_nats_upper_bound": self.kl_bound,
        }


def best_of_n_curve(
    scores: Rows, *, values: Rows | None = None, clusters: Clusters | None = None, confidence: float = 0.95
) -> list[CurvePoint]:
    """For N = 1 … M, M being the samples of the prompt that has fewest.

    scores     P rows, one number for each sample: these choose
    values     P rows: what is measured (a gold reward); none given: the scores, and the KL is estimated too. Values of
               their own say that scores may hold noise (soft best-of-N), of whose ties nothing is known: then the
               bound stands alone
    clusters   (P,) what prompts belong together by; none given: every prompt stands alone

    Raises DataError for no prompts, or a prompt without samples.
    """
    if not scores or not all(len(row) for row in scores):
        raise DataError("a curve needs prompts with at least one sample each", got=f"{len(scores)} prompts")
    largest = min(map(len, scores))
    curves = np.array([
        expected_best_of_n(row, values=None if values is None else values[i])[:largest] for i, row in enumerate(scores)
    ])  # fmt: skip

    def interval(column: np.ndarray) -> Estimate:
        return mean_interval(column, clusters=clusters, confidence=confidence)

    return [
        CurvePoint(
            n=n,
            score=interval(curves[:, n - 1]),
            gain=interval(curves[:, n - 1] - curves[:, 0]),
            kl=None if values is not None else interval(np.array([best_of_n_kl_estimate(row, n) for row in scores])),
            kl_bound=best_of_n_kl_bound(n),
        )
        for n in range(1, largest + 1)
    ]


def n_for_gain(curve: Sequence[CurvePoint], gain: float) -> int | None:
    """The smallest N whose estimated gain is at least `gain`, in units of the reward; None where none is."""
    return next((point.n for point in curve if point.gain.value >= gain), None)


def best_of_n_kl_estimate(scores: Numbers, n: int) -> float:
    """KL(best-of-n || policy) in nats of one prompt, estimated from M ≥ n scored samples of it.

    The bound of Beirami et al. (arXiv:2401.01879, theorem 1) less what ties take away (`tie_gap`), averaged over the
    best of all subsets of n samples. A tie's share of the mass up to it is estimated without the sample itself:
    (k − 1)/(b − 1), k samples tied and b no better than them. Without ties it is the bound. Against enumeration the
    bias is below 0.03 nats for n ≤ M/4; it grows towards the bound, to 0.2, where n = M, for a share that is
    seen few times has a skewed logarithm. Never below 0, nor above the bound.
    """
    _, counts = np.unique(np.asarray(scores, dtype=np.float64), return_counts=True)
    up_to = np.cumsum(counts)
    m = int(up_to[-1])
    if not 1 <= n <= m:
        raise DataError("best-of-n needs n samples", got=f"n {n}, {m} samples", expected=f"n from 1 to {m}")
    chance = np.add.reduceat(chances_of_best(m, n), up_to - counts)
    share = np.where(up_to > 1, (counts - 1) / np.maximum(up_to - 1, 1), 0.0)
    bound = best_of_n_kl_bound(n)
    gap = math.fsum(w * tie_gap(s, n) for w, s in zip(chance.tolist(), share.tolist(), strict=True))
    return min(max(bound - gap, 0.0), bound)


def tie_gap(share: float, n: int) -> float:
    """Nats that a tie of this share takes off log n − (n − 1)/n, given that the best is in it.

    Place each sample uniformly within its tie's interval [L, U] of the distribution function: then nothing ties, the
    best's place has the density n v^(n−1), and the KL is the bound. By the chain rule the KL of the samples
    alone is less by the KL of the place within its interval from uniform, which depends on the share δ = (U − L)/U:
    log(nδ / (1 − (1−δ)^n)) − (n − 1)(1/n + (1−δ)^n log(1−δ) / (1 − (1−δ)^n)).
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is in [0, 1], got {share}")
    if share == 1:
        return best_of_n_kl_bound(n)
    if share * n < 1e-4:
        return (n - 1) ** 2 * share**2 / 24  # the closed form cancels
    log_rest = math.log1p(-share)
    none = math.exp(n * log_rest)  # (1 - share)^n: no sample in the tie
    some = -math.expm1(n * log_rest)
    return math.log(n * share / some) - (n - 1) * (1 / n + none * log_rest / some)
