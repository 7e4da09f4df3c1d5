"""What a run is measured by besides the reward that it trains on: the sandbox's gold, a judge, held-out scores."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.runs.reading import Series

FAMILIES = ("eval_gold/", "gold/", "eval_win_rate/", "win_rate/", "rewards/gold", "eval_rewards/gold")
"""Beginnings of names, the surest first."""
SPREADS = ("_low", "_high", "_se", "/std", "/min", "/max", "/abstained")
"""Ends of names that tell no level."""


def gold_of(case: Case) -> tuple[str, Series] | None:
    """Name and series of the longest one of the first family that was logged; None if none was."""
    for family in FAMILIES:
        found = {name: series for name, series in case.matching(family).items() if not name.endswith(SPREADS)}
        if found:
            return max(found.items(), key=lambda item: (len(item[1]), item[0].endswith("total")))
    return None
