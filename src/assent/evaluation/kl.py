"""KL(policy || reference) in nats per completion, from completions that the policy sampled.

Both estimators are Schulman's (joschu.net/blog/kl-approx.html), with r = π_ref / π of each token:
    k1 = -log r          unbiased; can be negative for a sample
    k3 = r - 1 - log r   unbiased; never negative; smaller variance near zero, heavy tails far away
Summed over a completion's tokens, their expectation under the policy is the KL of whole completions (chain rule).
This holds only for sampling at the temperature of the log-probabilities, without top-p or top-k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assent.errors import DataError
from assent.statistics.intervals import Clusters, Estimate, mean_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class KLEstimates:
    """Both in nats per completion."""

    k1: Estimate
    k3: Estimate


def kl_estimates(
    logprobs: Sequence[Sequence[float] | np.ndarray],
    reference_logprobs: Sequence[Sequence[float] | np.ndarray],
    *,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> KLEstimates:
    """k1 and k3 over completions that the policy sampled.

    logprobs, reference_logprobs   one sequence for each completion, one number for each of its tokens, EOS included
    clusters                       the prompt of each completion; None: every completion is independent

    Raises DataError as `kl_values` does.
    """
    k1, k3 = kl_values(logprobs, reference_logprobs)
    return KLEstimates(
        k1=mean_interval(k1, clusters=clusters, confidence=confidence),
        k3=mean_interval(k3, clusters=clusters, confidence=confidence),
    )


def kl_values(
    logprobs: Sequence[Sequence[float] | np.ndarray], reference_logprobs: Sequence[Sequence[float] | np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """k1 and k3 of each completion, in nats.

    Raises DataError if numbers of completions or tokens differ, or if a log-probability is not finite.
    """
    if len(logprobs) != len(reference_logprobs):
        raise DataError(
            "KL needs every completion's log-probabilities under both policies",
            got=f"{len(logprobs)} completions under the policy, {len(reference_logprobs)} under the reference",
        )
    k1, k3 = np.empty(len(logprobs)), np.empty(len(logprobs))
    for i, (policy, reference) in enumerate(zip(logprobs, reference_logprobs, strict=True)):
        if len(policy) != len(reference):
            raise DataError(
                f"completion {i} has different numbers of tokens under the two policies",
                got=f"{len(policy)} and {len(reference)}",
            )
        log_ratio = np.asarray(reference, dtype=np.float64) - np.asarray(policy, dtype=np.float64)
        if not np.isfinite(log_ratio).all():
            raise DataError(f"completion {i} has a log-probability that is not finite")
        k1[i] = -log_ratio.sum()
        k3[i] = (np.expm1(log_ratio) - log_ratio).sum()
    return k1, k3
