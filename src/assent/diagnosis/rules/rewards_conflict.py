"""Parts of the reward go opposite ways: one is bought with the other."""

from __future__ import annotations

import re

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import SAMPLED, NotChecked, Rule
from assent.runs.reading import Series
from assent.statistics.small import fmean, shift

PART = re.compile(r"rewards/([^/]+)(/mean)?")
NOT_PARTS = frozenset({"chosen", "rejected", "margins", "accuracies", "gold"})
LEAST = 0.05
"""Smallest change that counts, as a share of the part's range over the run or of 1, whichever is larger."""


def check(case: Case) -> Finding | None:
    parts = parts_of(case)
    if len(parts) < 2:
        raise NotChecked("the reward has one part")
    moves = {name: shift(series.values) for name, series in parts.items() if len(series) >= 8}
    up = [name for name, move in moves.items() if move.low > 0 and move.value > LEAST]
    down = [name for name, move in moves.items() if move.high < 0 and -move.value > LEAST]
    if not up or not down:
        return None
    rising, falling = max(up, key=lambda name: moves[name].value), min(down, key=lambda name: moves[name].value)
    return Finding(
        severity="warning",
        confidence="certain",
        verdict=f"parts of the reward conflict: {rising} rises by {moves[rising].value:.2g}, {falling} falls by "
        f"{-moves[falling].value:.2g}",
        evidence=tuple(
            Evidence(metric=name, steps=parts[name].span, value=fmean(parts[name].values[-3:]))
            for name in (rising, falling)
        ),
        cause="one part is easier to raise and weighs enough to pay for the loss of the other",
        next_action=f"raise the weight of {falling.split('/')[1]} in --reward, or let {rising.split('/')[1]} count "
        f"only where {falling.split('/')[1]} holds",
    )


def parts_of(case: Case) -> dict[str, Series]:
    """The parts of a combined reward, each once."""
    found = {name: series for name, series in case.matching("rewards/").items() if PART.fullmatch(name)}
    return {name: series for name, series in found.items() if name.split("/")[1] not in NOT_PARTS}


RULE = Rule(
    name="rewards_conflict",
    title="parts of the reward go opposite ways",
    metrics=("objective/scores",),
    least=8,
    stages=SAMPLED,
    check=check,
    causes=("a format reward that outweighs accuracy", "a length penalty that outweighs help"),
    source="people's threads on GRPO: format up, accuracy down",
)

_UP = [0.05 * i for i in range(16)]
FIRES = example({"objective/scores": _UP, "rewards/format/mean": _UP, "rewards/accuracy/mean": [0.6 - x for x in _UP]},
                stage="grpo")  # fmt: skip
QUIET = example({"objective/scores": _UP, "rewards/format/mean": _UP, "rewards/accuracy/mean": _UP}, stage="grpo")
