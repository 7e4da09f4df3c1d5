"""Best-of-N for every N from one set of samples: reward, gain and KL with intervals; the smallest N for a gain.

Legend: P prompts, M samples for one prompt; the best of N ≤ M of them is chosen.
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
"""A sample: which completion it is, and its log-probability under the policy that sampled it; None: unknown."""
TINY = 1e-300


def drawn_of(rollouts: Sequence[Rollout]) -> list[Drawn]:
    """Completion and log-probability of each rollout. Do not use it for rollouts drawn with top-k or top-p: their
    log-probabilities are those of the policy without these."""
    return [(rollout.ids, math.fsum(rollout.logprobs)) for rollout in rollouts]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Best of `n`: means over prompts, with intervals over prompts."""

    n: int
    score: Estimate
    gain: Estimate
    """Score minus that of a single sample."""
    kl: Estimate | None
    """Estimated KL(best-of-n || policy that was sampled) in nats; None if only the bound is known."""
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
    """The curve for N = 1 … M, where M is the number of samples of the prompt with the fewest.

    scores     P rows with a number for each sample, by which the best is chosen
    values     P rows with what is measured (a gold reward). None: the scores, and the KL is estimated too. If values
               are given, the scores may hold noise (soft best-of-N), so ties are unknown and only the bound is given
    drawn      P rows of samples, if the policy is known (`best_of_n_kl_estimates`)
    clusters   (P,) the unit of the intervals for each prompt; None: every prompt is its own

    Raises DataError if there are no prompts, or if a prompt has no samples.
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
    """The smallest N whose estimated gain is at least `gain`, in units of the reward; None if there is none."""
    return next((point.n for point in curve if point.gain.value >= gain), None)


def best_of_n_kl_estimate(scores: Numbers, n: int, *, drawn: Sequence[Drawn] | None = None) -> float:
    """KL(best-of-n || policy) in nats for one prompt: see `best_of_n_kl_estimates`."""
    return float(best_of_n_kl_estimates(scores, [n], drawn=drawn)[0])


def best_of_n_kl_estimates(
    scores: Numbers, sizes: Sequence[int], *, drawn: Sequence[Drawn] | None = None
) -> np.ndarray:
    """(len(sizes),): KL(best-of-n || policy) in nats for one prompt and each n, estimated from M ≥ n scored samples.

    scores   (M,) by which the best is chosen
    drawn    (M,) the samples. Equal completions count as a tie even if rounding made their scores differ, and a known
             probability gives the tie's mass exactly, which the samples only estimate

    It is the bound of Beirami et al. (arXiv:2401.01879, theorem 1) minus the effect of ties (`tie_gap`), averaged over
    the best of all subsets of n samples. It is exact if the shares are (`tie_shares`), the bound if nothing ties, never
    below 0 and never above the bound. Compared with enumeration the bias is below 0.03 nats for n ≤ M/4. At n = M it
    grows to 0.2, towards the bound, because the logarithm of a share that is seen few times is skewed; it stays below
    0.03 if probabilities are known and different completions do not tie.
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
    """(C,): for each class of equal score, ascending, its mass divided by the mass of all that score no higher.

    If the class is one completion of known probability p, the share is p / (p + mass below), with the mass below
    estimated from the other samples. Otherwise it is (k − 1)/(b − 1), with k samples in the class and b samples that
    score no higher.
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
    """Nats by which ties with these shares reduce log n − (n − 1)/n if the best is in the tie. Any shape.

    Place each sample uniformly within its tie's interval [L, U] of the distribution function. Then nothing ties, the
    place of the best has the density n v^(n−1), and the KL is the bound. By the chain rule, the KL of the samples
    themselves is smaller by the KL from the uniform distribution of the place within its interval. That depends on the
    share δ = (U − L)/U: log(nδ / (1 − (1−δ)^n)) − (n − 1)(1/n + (1−δ)^n log(1−δ) / (1 − (1−δ)^n)).
    """
    of = np.asarray(share, dtype=np.float64)
    if not ((of >= 0) & (of <= 1)).all():
        raise ValueError(f"a share must be in [0, 1], got {share}")
    small = of * n < 1e-4  # the closed form would cancel here
    delta = np.where(small, 0.5, of)
    log_rest = np.log1p(-np.minimum(delta, 1 - 1e-16))
    none = np.exp(n * log_rest)  # (1 - share)^n: no sample in the tie
    some = -np.expm1(n * log_rest)
    gap = np.log(n * delta / some) - (n - 1) * (1 / n + none * log_rest / some)
    return np.where(small, (n - 1) ** 2 * of**2 / 24, gap)
