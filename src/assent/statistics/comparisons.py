"""A against B on the same prompts, beyond the plain win rate: at equal length, and how many prompts it would take.

Legend: N comparisons of one answer with another on the same prompt.
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
    """What is left of a win rate where both answers are of one length."""

    win_rate: Estimate
    effect: Estimate
    """Log-odds of winning per unit of tanh(difference in length / its deviation): above zero the longer answer wins."""

    def as_dict(self) -> dict[str, Any]:
        return {"win_rate": self.win_rate.as_dict(), "effect": self.effect.as_dict()}


SMALLEST_DIFFERENCE = 1e-6
"""Of tanh(Δ / s) between comparisons: below it the model's two terms are one to a float64's curvature. And of a term's
standard error: below it there is nothing but rounding."""


def length_controlled(
    shares: Values,
    length_differences: Values,
    *,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> LengthControl | None:
    """The win rate of a logistic model of winning and length, read with its length term set to zero.

        P(A wins) = σ(θ + φ tanh(Δ / s)),  Δ the length of A's answer less that of B's, s the deviation of Δ
        length-controlled win rate = σ(θ)

    AlpacaEval 2 (Dubois et al., arXiv:2404.04475, eq. 1 and 2) less its third term, the difficulty of the instruction:
    that one is fitted on the answers of many models and cannot be told from chance with two.

    shares              (N,) in [0, 1]: 1 where A's answer is the better one, ½ for a tie
    length_differences  (N,) A less B, in any unit
    clusters            (N,) the prompt of each: every one counts the same, and is the unit of the interval

    None where the model has no finite fit: one side wins everywhere, or all on one side of a length; where all is a
    tie, which leaves no variance to judge by; where all answers differ in length by the same amount, or by so many
    deviations of it that tanh is 1 for all; and where a term is fitted without an error, which says that there is no
    more to judge it by than there are terms. Raises DataError for unequal or no values.
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
        warnings.simplefilter("ignore", PerfectSeparationWarning)  # ruled out above; exact ties look like it
        warnings.simplefilter("ignore", SpecificationWarning)  # of weights beside clusters: a test has it by hand
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": codes})
    quantile = float(stats.t.ppf((1 + confidence) / 2, num_clusters - 2))
    (theta, phi), (theta_error, phi_error) = fitted.params.tolist(), fitted.bse.tolist()
    if not (theta_error > SMALLEST_DIFFERENCE and phi_error > SMALLEST_DIFFERENCE):  # NaN: a variance below zero
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
    """Whether a threshold of x parts all that was won from all that was lost: then the likelihood has no maximum."""
    won, lost = x[y > 0], x[y < 1]
    if not len(won) or not len(lost):
        return True
    return bool(won.min() >= lost.max() or won.max() <= lost.min())


def prompts_needed(win_rate: Estimate, *, half_width: float) -> int | None:
    """Prompts with which a win rate's interval would reach no further than `half_width` to either side.

    Wilson's interval at the estimated rate; how much a prompt tells (several answers to each, ties) is taken from the
    estimate's own standard error. None where that is unknown. Raises ConfigError for a width outside (0, ½).
    """
    if not 0 < half_width < 0.5:
        raise ConfigError("a half-width of a win rate lies between 0 and 0.5", got=half_width)
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
