"""Pairs that were judged more than once: how often one label is wrong."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import Rows, data_of, rows_example, sample_pairs
from assent.diagnosis.rule import NotChecked, Rule
from assent.statistics.small import Interval, wilson

LEAST = 20
"""Pairs judged more than once."""
NOISY = 0.05
"""Share of wrong labels that nobody minds. People's comparisons have 0.15 to 0.3."""


def check(case: Case) -> Finding | None:
    noise, repeated = flip_rate(data_of(case))
    if noise.low <= NOISY:
        return None
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"of pairs that were judged again, so many change their order that {noise.value:.0%} "
        f"[{noise.low:.0%}, {noise.high:.0%}] of the labels must be wrong",
        evidence=(
            Evidence(metric="share of wrong labels", value=noise.value, expected=f"at most {NOISY}"),
            Evidence(metric="pairs judged more than once", value=repeated),
        ),
        cause="annotators disagree, or do not see a difference",
        next_action=f"expect no more than {1 - noise.value:.0%} accuracy on held-out labels, of any reward model; ask "
        "several people about a pair and give the share of votes as chosen_probability, or train with label_smoothing "
        f"{min(noise.value, 0.45):.2f}",
    )


def flip_rate(rows: Rows) -> tuple[Interval, int]:
    """The share ε of wrong labels with its 95% interval, and the pairs it is estimated from.

    Two labels of one pair differ with probability d = 2 ε (1 - ε), where each is wrong independently of the other. So
    ε = (1 - sqrt(1 - 2 d)) / 2. A pair with several labels counts by its mean over pairs of labels.
    """
    votes: dict[tuple[str, str, str], Counter[bool]] = defaultdict(Counter)
    voters: dict[tuple[str, str, str], set[object]] = defaultdict(set)
    for number, pair in enumerate(rows.pairs):
        first, second = sorted((pair.better, pair.worse))
        key = (pair.prompt, first, second)
        order = pair.better == first
        # The same label by the same annotator is a copied row. A file that names none may hold copies, too.
        voter = (pair.annotator, order) if pair.annotator is not None else number
        votes[key][order] += voter not in voters[key]
        voters[key].add(voter)
    repeated = [count for count in votes.values() if count.total() > 1]
    if len(repeated) < LEAST:
        raise NotChecked(f"too few pairs judged more than once: {len(repeated)} of {LEAST}")
    differing = sum(count[True] * count[False] / math.comb(count.total(), 2) for count in repeated)
    return Interval(*(_wrong(part) for part in wilson(differing, len(repeated)))), len(repeated)


def _wrong(differing: float) -> float:
    return (1 - math.sqrt(max(0.0, 1 - 2 * differing))) / 2


RULE = Rule(
    name="label_noise",
    title="pairs judged again change their order",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("annotators disagree", "careless labels"),
    source="Gao et al., arXiv:2404.09824; Stiennon et al., arXiv:2009.01325 (failures D15)",
)

_ROWS = [{**row, "annotator": "first"} for row in sample_pairs(40)]
_AGAIN = [{**row, "annotator": "second"} for row in sample_pairs(40)]
_SWAPPED = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in _AGAIN[:14]]
FIRES = rows_example([*_ROWS, *_SWAPPED, *_AGAIN[14:]])
QUIET = rows_example([*_ROWS, *_AGAIN])
