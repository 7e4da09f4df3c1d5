"""Bradley–Terry ratings of several policies from their comparisons with each other.

Legend: M policies, P prompts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from assent.errors import ConfigError
from assent.statistics.intervals import Clusters, Estimate, cluster_codes

ELO_POINTS = 400 / math.log(10)
"""Elo points per unit of log-odds: 400 points are odds of ten to one."""


def bradley_terry(
    shares: Mapping[tuple[str, str], Sequence[float] | np.ndarray],
    *,
    baseline: str,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> dict[str, Estimate | None]:
    """Ratings in Elo points, the baseline at 0: P(A beats B) = 1 / (1 + 10^((r_B - r_A) / 400)).

    Bradley and Terry, Biometrika 39 (1952), by maximum likelihood as a logistic regression on differences, with
    cluster-robust variance, because comparisons on one prompt share the prompt.

    shares    (A, B) to (P,): for each prompt, the share of comparisons that A wins, a tie half; nan: not compared
    clusters  (P,) the unit of the intervals for each prompt; None: every prompt is its own

    None for a policy unless it beats the baseline and is beaten by it, directly or through other policies: otherwise
    the likelihood has no maximum (Ford, Amer. Math. Monthly 64, 1957). Raises ConfigError for an unknown baseline.
    """
    names = list(dict.fromkeys(name for pair in shares for name in pair))
    if baseline not in names:
        raise ConfigError("the baseline was not compared with anything", got=baseline, expected=", ".join(names))
    place = {name: i for i, name in enumerate(names)}
    first, second, prompt, y = _rows(shares, place)
    component = _mutual(first, second, y, len(names))
    together = component == component[place[baseline]]
    used = together[first] & together[second]
    ratings: dict[str, Estimate | None] = {name: None for name in names if not together[place[name]]}
    rated = [name for name in names if together[place[name]] and name != baseline]
    groups = np.zeros(0, dtype=np.int64)
    if rated:
        codes = cluster_codes(np.arange(int(prompt.max()) + 1) if clusters is None else clusters)
        groups = codes[prompt[used]]
    num_clusters = len(np.unique(groups))
    sizes = {name: int((used & ((first == place[name]) | (second == place[name]))).sum()) for name in names}
    values, errors = _fit(rated, place, first[used], second[used], y[used], groups)
    quantile = float(stats.t.ppf((1 + confidence) / 2, num_clusters - 1)) if num_clusters > 1 else math.inf
    for name, value, error in zip([baseline, *rated], [0.0, *values], [0.0, *errors], strict=True):
        if name != baseline and error < 1e-12:  # only ties: no variance is not certainty
            error = math.inf
        reach = 0.0 if name == baseline else quantile * error
        ratings[name] = Estimate(
            value=ELO_POINTS * value,
            low=ELO_POINTS * (value - reach),
            high=ELO_POINTS * (value + reach),
            n=sizes[name],
            clusters=num_clusters,
            standard_error=ELO_POINTS * error,
            confidence=confidence,
        )
    return {name: ratings[name] for name in names}


def _rows(
    shares: Mapping[tuple[str, str], Sequence[float] | np.ndarray], place: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each comparison on a prompt: the two policies, the prompt, and the first one's share."""
    parts = []
    for (a, b), values in shares.items():
        y = np.asarray(values, dtype=np.float64)
        prompts = np.flatnonzero(~np.isnan(y))
        both = np.full(len(prompts), place[a]), np.full(len(prompts), place[b])
        parts.append((*both, prompts, y[prompts]))
    first, second, prompt, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, prompt, y


def _mutual(first: np.ndarray, second: np.ndarray, y: np.ndarray, number: int) -> np.ndarray:
    """(M,) the strongly connected component of each policy in the graph of who beat (or drew with) whom."""
    won, lost = y > 0, y < 1
    winners, losers = np.concatenate([first[won], second[lost]]), np.concatenate([second[won], first[lost]])
    graph = coo_array((np.ones(len(winners)), (winners, losers)), shape=(number, number))
    labels: np.ndarray = connected_components(graph, directed=True, connection="strong")[1]
    return labels


def _fit(
    rated: Sequence[str],
    place: Mapping[str, int],
    first: np.ndarray,
    second: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
) -> tuple[list[float], list[float]]:
    """Log-odds of each rated policy against the baseline, and their standard errors."""
    if not rated:
        return [], []
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    columns = [(first == place[name]).astype(float) - (second == place[name]) for name in rated]
    model = sm.GLM(y, np.column_stack(columns), family=sm.families.Binomial())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerfectSeparationWarning)  # excluded by `_mutual`; exact ties look like it
        if len(np.unique(groups)) < 2:
            return model.fit().params.tolist(), [math.inf] * len(rated)
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": groups})
    return fitted.params.tolist(), fitted.bse.tolist()
