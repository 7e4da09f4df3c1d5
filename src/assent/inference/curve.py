"""What best-of-N gives for every N, from one set of samples: reward, gain and KL with intervals; the N for a gain.

Legend: P prompts, M samples of one prompt, N ≤ M of them among which the best is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assent.errors import DataError
from assent.inference.best_of_n import Numbers, best_of_n_kl_bound, chances_of_best, expected_best_of_n
from assent.statistics.intervals import Clusters, Estimate, mean_interval
from assent.types import Rollout

Rows = Sequence[Sequence[float]]
Drawn = tuple[Hashable, float | None]
"""A sample: which completion it is, and its log-probability under what was sampled from; None: not known."""
TINY = 1e-300


def drawn_of(rollouts: Sequence[Rollout]) -> list[Drawn]:
    """Rollouts; not those drawn with top-k or top-p, whose log-probabilities are of the policy without these."""
    return [(rollout.ids, math.fsum(rollout.logprobs)) for rollout in rollouts]


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
    scores: Rows,
    *,
    values: Rows | None = None,
    drawn: Sequence[Sequence[Drawn]] | None = None,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> list[CurvePoint]:
    """For N = 1 … M, M being the samples of the prompt that has fewest.

    scores     P rows, one number for each sample: these choose
    values     P rows: what is measured (a gold reward); none given: the scores, and the KL is estimated too. Values of
               their own say that scores may hold noise (soft best-of-N), of whose ties nothing is known: then the
               bound stands alone
    drawn      P rows: the samples, where the policy is known (`best_of_n_kl_estimates`)
    clusters   (P,) what prompts belong together by; none given: every prompt stands alone

    Raises DataError for no prompts, or a prompt without samples.
    """
    if not scores or not all(len(row) for row in scores):
        raise DataError("a curve needs prompts with at least one sample each", got=f"{len(scores)} prompts")
    largest = min(map(len, scores))
    curves = np.array([
        expected_best_of_n(row, values=None if values is None else values[i])[:largest] for i, row in enumerate(scores)
    ])  # fmt: skip

    sizes = range(1, largest + 1)
    kl = None
    if values is None:
        own = [None] * len(scores) if drawn is None else drawn
        kl = np.array([best_of_n_kl_estimates(row, sizes, drawn=one) for row, one in zip(scores, own, strict=True)])

    def interval(column: np.ndarray) -> Estimate:
        return mean_interval(column, clusters=clusters, confidence=confidence)

    return [
        CurvePoint(
            n=n,
            score=interval(curves[:, n - 1]),
            gain=interval(curves[:, n - 1] - curves[:, 0]),
            kl=None if kl is None else interval(kl[:, n - 1]),
            kl_bound=best_of_n_kl_bound(n),
        )
        for n in sizes
    ]


def n_for_gain(curve: Sequence[CurvePoint], gain: float) -> int | None:
    """The smallest N whose estimated gain is at least `gain`, in units of the reward; None where none is."""
    return next((point.n for point in curve if point.gain.value >= gain), None)


def best_of_n_kl_estimate(scores: Numbers, n: int, *, drawn: Sequence[Drawn] | None = None) -> float:
    """KL(best-of-n || policy) in nats of one prompt: see `best_of_n_kl_estimates`."""
    return float(best_of_n_kl_estimates(scores, [n], drawn=drawn)[0])


def best_of_n_kl_estimates(
    scores: Numbers, sizes: Sequence[int], *, drawn: Sequence[Drawn] | None = None
) -> np.ndarray:
    """(len(sizes),): KL(best-of-n || policy) in nats of one prompt for each n, estimated from M ≥ n scored samples.

    scores   (M,) that choose
    drawn    (M,) the samples. The same completion counts as of the same score, which rounding can hide; and what its
             probability says of a tie is exact, where the samples only estimate it

    The bound of Beirami et al. (arXiv:2401.01879, theorem 1) less what ties take away (`tie_gap`), averaged over the
    best of all subsets of n samples: exact where the shares are (`tie_shares`), the bound where nothing ties. Never
    below 0, nor above the bound. Against enumeration the bias is below 0.03 nats for n ≤ M/4. It grows towards the
    bound, to 0.2, where n = M, for a share that is seen few times has a skewed logarithm; but stays below 0.03 where
    probabilities are known and different completions do not tie.
    """
    if drawn is not None:
        of: dict[Hashable, float] = {}
        scores = [of.setdefault(completion, score) for (completion, _), score in zip(drawn, scores, strict=True)]
    _, counts = np.unique(np.asarray(scores, dtype=np.float64), return_counts=True)
    starts, m = np.cumsum(counts) - counts, int(counts.sum())
    if not all(1 <= n <= m for n in sizes):
        raise DataError("best-of-n needs n samples", got=f"n {list(sizes)}, {m} samples", expected=f"n from 1 to {m}")
    shares = tie_shares(scores, drawn=drawn)
    bounds = np.array([best_of_n_kl_bound(n) for n in sizes])
    gaps = [np.add.reduceat(chances_of_best(m, n), starts) @ tie_gap(shares, n) for n in sizes]
    return np.clip(bounds - gaps, 0.0, bounds)


def tie_shares(scores: Numbers, *, drawn: Sequence[Drawn] | None = None) -> np.ndarray:
    """(C,): of each class of equal score, ascending, the mass over the mass of all that scores no higher, estimated.

    By its own probability, where the class is one completion: p over p and what the other samples say lies below.
    Else without the sample itself: (k − 1)/(b − 1), with k samples in the class and b no better.
    """
    _, classes, counts = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    shares = (counts - 1) / np.maximum(below + counts - 1, 1)
    if drawn is not None:
        found: list[dict[Hashable, float | None]] = [{} for _ in counts]
        for place, (completion, logprob) in zip(classes, drawn, strict=True):
            found[place].setdefault(completion, logprob)
        others = counts.sum() - counts
        for c, completions in enumerate(found):
            logprob = next(iter(completions.values()))
            if len(completions) == 1 and logprob is not None and others[c]:
                p = min(math.exp(logprob), 1.0)
                shares[c] = p / max(p + (1 - p) * below[c] / others[c], TINY)
    return shares


def tie_gap(share: np.ndarray | float, n: int) -> np.ndarray:
    """Nats that ties of these shares take off log n − (n − 1)/n, given that the best is in them; of any shape.

    Place each sample uniformly within its tie's interval [L, U] of the distribution function: then nothing ties, the
    best's place has the density n v^(n−1), and the KL is the bound. By the chain rule the KL of the samples
    alone is less by the KL of the place within its interval from uniform, which depends on the share δ = (U − L)/U:
    log(nδ / (1 − (1−δ)^n)) − (n − 1)(1/n + (1−δ)^n log(1−δ) / (1 − (1−δ)^n)).
    """
    of = np.asarray(share, dtype=np.float64)
    if not ((of >= 0) & (of <= 1)).all():
        raise ValueError(f"a share is in [0, 1], got {share}")
    small = of * n < 1e-4  # there the closed form cancels
    delta = np.where(small, 0.5, of)
    log_rest = np.log1p(-np.minimum(delta, 1 - 1e-16))
    none = np.exp(n * log_rest)  # (1 - share)^n: no sample in the tie
    some = -np.expm1(n * log_rest)
    gap = np.log(n * delta / some) - (n - 1) * (1 / n + none * log_rest / some)
    return np.where(small, (n - 1) ** 2 * of**2 / 24, gap)
