"""Which writer writes better completions: a reward model's ranking of the writers beside that of the labels.

Legend: G groups, K completions of a group, W writers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from assent.errors import ConfigError, DataError
from assent.runs.text_table import cut
from assent.statistics.intervals import Estimate, proportion_interval
from assent.types import PromptGroup

FEW_PROMPTS = 5
"""A writer with fewer prompts is not ranked."""
RESAMPLES = 2000


def rank_writers(
    groups: Sequence[PromptGroup],
    scores: Sequence[Sequence[float]],
    labels: Sequence[Sequence[float]],
    *,
    column: str,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Each writer's share of wins over the others' answers to the same prompts, by the scores and by the labels.

    scores, labels  (G, K), higher is better
    column          column of a group that names the writer of each of its K completions

    `writers` are in the labels' order. `spearman` is the rank correlation of the two shares over the writers with at
    least five prompts, with an interval by bootstrap over writers (BCa: Efron and Tibshirani 1993, ch. 14; scipy).
    Raises ConfigError if the column does not name a writer for each completion, DataError for fewer than three.
    """
    shares: dict[str, tuple[list[float], list[float], list[int]]] = {}
    for number, (group, own, label) in enumerate(zip(groups, scores, labels, strict=True)):
        names = group.columns.get(column)
        if not isinstance(names, list) or len(names) != len(group.completions):
            known = ", ".join(sorted(group.columns)) or "none"
            raise ConfigError(
                f"rank_by: {group.source or 'a row'} does not name a writer for each completion in {column}",
                got=f"columns {known}" if names is None else str(names)[:80],
                expected=f"a list of {len(group.completions)} names",
            )
        if len(names) < 2:
            continue
        for k, name in enumerate(map(str, names)):
            entry = shares.setdefault(name, ([], [], []))
            entry[0].append(_share(own, k))
            entry[1].append(_share(label, k))
            entry[2].append(number)
    writers: list[tuple[str, Estimate, Estimate]] = []
    for name, (by_scores, by_labels, prompts) in shares.items():
        a, b = (proportion_interval(x, clusters=prompts, confidence=confidence) for x in (by_scores, by_labels))
        writers.append((name, a, b))
    writers.sort(key=lambda writer: -writer[2].value)
    ranked = [writer for writer in writers if writer[1].clusters >= FEW_PROMPTS]
    if len(ranked) < 3:
        raise DataError(
            "there are too few writers to rank",
            got=f"{len(ranked)} with at least {FEW_PROMPTS} prompts, of {len(writers)}",
            expected="three or more",
        )
    first, second = np.array([(a.value, b.value) for _, a, b in ranked]).T
    is_flat = np.ptp(first) == 0 or np.ptp(second) == 0  # all shares are equal: there is no order to correlate
    return {
        "column": column,
        "writers": [{"name": name, "scores": a.as_dict(), "labels": b.as_dict()} for name, a, b in writers],
        "too_few": len(writers) - len(ranked),
        "spearman": None if is_flat else spearman(first, second, seed=seed, confidence=confidence).as_dict(),
    }


def _share(values: Sequence[float], k: int) -> float:
    others = np.delete(np.asarray(values, dtype=np.float64), k)
    return float((0.5 * (1 + np.sign(values[k] - others))).mean())


def spearman(x: np.ndarray, y: np.ndarray, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Rank correlation (W,) with a bootstrap interval over its points; infinite ends if there is none."""
    value = float(stats.spearmanr(x, y).statistic)
    low, high, error = -math.inf, math.inf, math.inf
    if len(x) > 3 and abs(value) < 1 - 1e-12:
        found = stats.bootstrap(
            (x, y),
            lambda a, b: stats.spearmanr(a, b).statistic,
            paired=True,
            vectorized=False,
            n_resamples=RESAMPLES,
            confidence_level=confidence,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
        low, high = (float(end) for end in found.confidence_interval)
        error = float(found.standard_error)
        if not (math.isfinite(low) and math.isfinite(high)):
            low, high = -math.inf, math.inf
    return Estimate(
        value=value, low=low, high=high, n=len(x), clusters=len(x), standard_error=error, confidence=confidence
    )


def writer_lines(ranking: dict[str, Any]) -> list[str]:
    """The result of `rank_writers` as text within 80 columns."""
    correlation = "—" if ranking["spearman"] is None else Estimate.from_dict(ranking["spearman"]).text()
    lines = [
        "",
        f"{len(ranking['writers'])} writers by {ranking['column']}: Spearman {correlation} with the labels"
        + (f"; {ranking['too_few']} with too few prompts left out" if ranking["too_few"] else ""),
        f"{'share of wins':<34}{'labels':<20}{'reward model':<20}{'n':>4}",
    ]
    for writer in ranking["writers"]:
        labels, scores = (Estimate.from_dict(writer[name]) for name in ("labels", "scores"))
        lines.append(f"{cut(writer['name'], 32):<34}{labels.text():<20}{scores.text():<20}{labels.clusters:>4}")
    return lines
