"""Which stages of a pipeline may run side by side, and on how many threads each.

A stage's level is the longest way to it from a stage that needs none. Stages of one level share the cores; a stage that
is alone on its level has all of them. The shares are settled when the pipeline starts, because other threads would
give a stage that is resumed other last bits.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from assent.pipelines.plan import Stage
from assent.runs.environment import cores

Jobs = int | Literal["auto"]


def number_of_jobs(jobs: Jobs, stages: Sequence[Stage]) -> int:
    """`auto`: as many as there are stages that do not depend on each other, and at most as many as there are cores."""
    return min(cores(), max(Counter(_levels(stages).values()).values())) if jobs == "auto" else jobs


def settled(stages: Sequence[Stage], jobs: int) -> dict[str, int | None]:
    """Threads by stage; None: all that torch takes by itself, and no other stage beside it."""
    levels = _levels(stages)
    width = Counter(levels.values())
    return {name: _share(min(jobs, width[level])) for name, level in levels.items()}


def fits(threads: int, running: Sequence[int], jobs: int) -> bool:
    """Whether a stage may start beside those with so many threads each."""
    return not running or (len(running) < jobs and threads + sum(running) <= max(jobs, cores()))


def _share(beside: int) -> int | None:
    if beside == 1:
        return None
    most = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # what the user set stays
    share = max(1, cores() // beside)
    return min(share, int(most)) if most.isdigit() and int(most) else share


def _levels(stages: Sequence[Stage]) -> Mapping[str, int]:
    levels: dict[str, int] = {}
    for stage in stages:  # in the file's order: what a stage needs stands above it
        levels[stage.name] = 1 + max((levels[name] for name in stage.needs), default=0)
    return levels
