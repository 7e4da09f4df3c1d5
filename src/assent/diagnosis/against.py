"""A run beside one that worked: where options and metrics differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from assent.diagnosis.case import Case
from assent.statistics.small import fmean, noise

NOT_COMPARED = ("cost/", "perf/", "time/", "gate/", "epoch", "num_tokens", "episode", "eps", "learning_rate")
"""Metrics about the machine and the schedule."""
PLACES = frozenset({"output_dir", "seed", "resume", "stop", "save_steps", "save_total_limit", "report_to", "project"})
MOST = 12
"""Metrics shown."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric's mean over the last quarter of both runs; `spreads`: their difference, in spreads of the values."""

    metric: str
    here: float
    there: float
    spreads: float


def differing_options(case: Case, good: Case) -> dict[str, tuple[Any, Any]]:
    """(here, there) of each option that differs, except where and how often the run writes."""
    names = sorted((set(case.config) | set(good.config)) - PLACES)
    both = ((name, case.config.get(name), good.config.get(name)) for name in names)
    return {name: (here, there) for name, here, there in both if here != there}


def differing_metrics(case: Case, good: Case) -> list[Difference]:
    """Metrics that both runs logged and whose last quarters differ by more than their noise, most different first."""
    found = []
    for name in sorted(set(case.series) & set(good.series)):
        if name.removeprefix("critic/").startswith(NOT_COMPARED) or name.endswith(("_low", "_high", "_se")):
            continue
        here, there = (series.tail(max(1, len(series) // 4)).values for series in (case[name], good[name]))
        mean_here, mean_there = fmean(here), fmean(there)
        spread = max(noise(case[name].values), noise(good[name].values), 1e-12 * max(1.0, abs(mean_there)))
        spreads = (mean_here - mean_there) / spread
        if abs(spreads) > 3:
            found.append(Difference(name, mean_here, mean_there, spreads))
    return sorted(found, key=lambda difference: -abs(difference.spreads))[:MOST]


def only_here(case: Case, good: Case) -> tuple[list[str], list[str]]:
    """Metrics that only one of the two runs logged: (this one, the other)."""
    here, there = set(case.series), set(good.series)
    return sorted(here - there), sorted(there - here)
