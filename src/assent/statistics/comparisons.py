"""More about A against B on the same prompts: the win rate at equal length, and the prompts that an interval takes.

Legend: N comparisons of two answers to the same prompt.
"""

from __future__ import annotations

import bisect
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit

from assent.errors import ConfigError, DataError
from assent.statistics.intervals import Clusters, Estimate, Values, cluster_codes

MOST_PROMPTS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthControl:
    """A win rate at equal length of both answers."""

    win_rate: Estimate
    effect: Estimate
    """Log-odds of winning per unit of tanh(length difference / its deviation). Above zero longer answers win more."""

    def as_dict(self) -> dict[str, Any]:
        return {"win_rate": self.win_rate.as_dict(), "effect": self.effect.as_dict()}


SMALLEST_DIFFERENCE = 1e-6
"""Smallest usable range of tanh(Δ / s): below it, float64 cannot tell the model's two terms apart. Also the smallest
usable standard error: below it there is only rounding."""


def length_controlled(
    shares: Values,
    length_differences: Values,
    *,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> LengthControl | None:
    """The win rate of a logistic model of winning and length, with its length term set to zero.

        P(A wins) = σ(θ + φ tanh(Δ / s)),  Δ: length of A's answer minus that of B's, s: deviation of Δ
        length-controlled win rate = σ(θ)

    This is AlpacaEval 2 (Dubois et al., arXiv:2404.04475, eq. 1 and 2) without its third term, the difficulty of the
    instruction, which is fitted on the answers of many models and is indistinguishable from chance with two.

    shares              (N,) in [0, 1]: 1 if A's answer is better, ½ for a tie
    length_differences  (N,) A minus B, in any unit
    clusters            (N,) the prompt of each; every prompt counts the same and is the unit of the interval

    None if the model has no finite fit (one side wins everywhere, or everywhere on one side of a length), if everything
    is a tie, if all answers differ in length by the same amount or tanh is the same for all, and if a term has no
    standard error, which happens if there are no more comparisons than terms. Raises DataError for different numbers of
    values, or none.
    """
    y, delta = np.asarray(shares, dtype=np.float64), np.asarray(length_differences, dtype=np.float64)
    if not len(y) or y.shape != delta.shape:
        raise DataError(
            "length control needs a share and a length for each comparison", got=f"{y.shape}, {delta.shape}"
        )
    codes = cluster_codes(np.arange(len(y)) if clusters is None else clusters)
    num_clusters = int(codes.max()) + 1
    spread = float(delta.std())
    if num_clusters < 3 or spread == 0 or np.ptp(y) == 0:
        return None
    x = np.tanh(delta / spread)
    if np.ptp(x) < SMALLEST_DIFFERENCE or _separated(x, y):
        return None
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning, SpecificationWarning

    model = sm.GLM(
        y,
        np.column_stack([np.ones(len(y)), x]),
        family=sm.families.Binomial(),
        var_weights=1.0 / np.bincount(codes)[codes],  # every prompt counts the same
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerfectSeparationWarning)  # excluded above; exact ties look like it
        warnings.simplefilter(
            "ignore", SpecificationWarning
        )  # about weights with clusters: a test computes this by hand
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": codes})
    quantile = float(stats.t.ppf((1 + confidence) / 2, num_clusters - 2))
    (theta, phi), (theta_error, phi_error) = fitted.params.tolist(), fitted.bse.tolist()
    if not (
        theta_error > SMALLEST_DIFFERENCE and phi_error > SMALLEST_DIFFERENCE
    ):  # also false for NaN, from a negative variance
        return None
    common: dict[str, Any] = {"n": len(y), "clusters": num_clusters, "confidence": confidence}
    return LengthControl(
        win_rate=Estimate(
            value=float(expit(theta)),
            low=float(expit(theta - quantile * theta_error)),
            high=float(expit(theta + quantile * theta_error)),
            standard_error=float(expit(theta) * expit(-theta) * theta_error),
            **common,
        ),
        effect=Estimate(
            value=phi,
            low=phi - quantile * phi_error,
            high=phi + quantile * phi_error,
            standard_error=phi_error,
            **common,
        ),
    )


def _separated(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a threshold of x separates wins from losses: then the likelihood has no maximum."""
    won, lost = x[y > 0], x[y < 1]
    if not len(won) or not len(lost):
        return True
    return bool(won.min() >= lost.max() or won.max() <= lost.min())


def prompts_needed(win_rate: Estimate, *, half_width: float) -> int | None:
    """Number of prompts with which the interval of a win rate would be at most `half_width` wide on each side.

    It assumes Wilson's interval at the estimated rate. The information per prompt, which depends on ties and on the
    number of answers, comes from the estimate's standard error; None if that is unknown. Raises ConfigError for a width
    outside (0, ½).
    """
    if not 0 < half_width < 0.5:
        raise ConfigError("the half-width of a win rate must be between 0 and 0.5", got=half_width)
    if not math.isfinite(win_rate.standard_error):
        return None
    from statsmodels.stats.proportion import proportion_confint

    p = win_rate.value
    per_prompt = 1.0
    if win_rate.standard_error > 1e-12:
        per_prompt = p * (1 - p) / win_rate.standard_error**2 / win_rate.clusters

    def narrow_enough(prompts: int) -> bool:
        size = prompts * per_prompt
        low, high = proportion_confint(p * size, size, alpha=1 - win_rate.confidence, method="wilson")
        return bool(high - low <= 2 * half_width)

    return 1 + bisect.bisect_left(range(1, MOST_PROMPTS), True, key=narrow_enough)
