"""From completions to preferences: which comparisons to ask for, and what their verdicts say about each prompt.

Legend: K completions of a prompt, N comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

import numpy as np

from assent.data.texts import as_plain, last_content
from assent.judging.rubric import written
from assent.runs.files import to_json
from assent.types import Preference, PromptGroup, Text

DATA, ANCHOR = "data", "anchor"
EQUAL = 1e-9
"""Wins that differ by less are equal: sums of halves and of probabilities."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A comparison to ask for: completions `a` and `b` of the prompt with this index."""

    prompt: int
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two texts to compare. `part` is what they are for: `DATA`, `ANCHOR`, or the kind of a control.

    Of an anchor `a` is the completion that people prefer; of a control it is the control, and `b` is the prompt's first
    completion. `pair.prompt` counts within the part; a control belongs to a prompt of the data.
    """

    part: str
    pair: Pair
    group: PromptGroup
    a: str
    b: str


def comparisons_of(
    groups: Sequence[PromptGroup],
    *,
    anchors: Sequence[PromptGroup] = (),
    controls: Mapping[str, Sequence[int]] | None = None,
    texts: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Everything to ask for: the anchors, then prompt by prompt its comparisons and the controls among them.

    controls   kind to the prompts, by index, that get one; `texts` has each kind's text
    """
    found: list[Comparison] = []
    for i, group in enumerate(anchors):
        shown = [shown_text(completion) for completion in group.completions]
        found += [Comparison(ANCHOR, Pair(i, a, b), group, shown[a], shown[b]) for a, b in _preferred(group)]
    at = {kind: set(prompts) for kind, prompts in (controls or {}).items()}
    for i, group in enumerate(groups):
        shown = [shown_text(completion) for completion in group.completions]
        pairs = [Pair(i, a, b) for a, b in combinations(range(len(shown)), 2)]
        found += [Comparison(DATA, pair, group, shown[pair.a], shown[pair.b]) for pair in pairs]
        found += [
            Comparison(kind, Pair(i, 0, 0), group, (texts or {})[kind], shown[0])
            for kind, prompts in at.items()
            if i in prompts
        ]
    return found


def _preferred(group: PromptGroup) -> list[tuple[int, int]]:
    """Every two completions of an anchor that people rank differently, the better one first."""
    preference = group.preference or Preference()
    ranks = preference.ranking or ()
    pairs = [(a, b) for a, b in permutations(range(len(ranks)), 2) if ranks[a] < ranks[b]]
    probability = preference.chosen_probability
    if probability is None or probability == 0.5:
        return [] if probability is not None else pairs
    return pairs if probability > 0.5 else [(b, a) for a, b in pairs]


def join_prompts(groups: Iterable[PromptGroup]) -> list[PromptGroup]:
    """One group for each row with two completions or more; rows with one completion are joined by their prompt.

    What the rows said about their completions is dropped. A column that differs between joined rows becomes a list,
    with an entry for each completion. Groups keep the order in which their prompts first appear.
    """
    found: dict[str | int, list[PromptGroup]] = {}
    for number, group in enumerate(groups):
        key = to_json(as_plain(group.prompt)) if len(group.completions) == 1 else number
        found.setdefault(key, []).append(group)
    return [_joined(rows) for rows in found.values()]


def _joined(rows: Sequence[PromptGroup]) -> PromptGroup:
    first = rows[0]
    if len(rows) == 1:
        return replace(first, preference=None, logps=None, steps=None)
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row.columns):
        values = [row.columns.get(name) for row in rows]
        columns[name] = values[0] if all(value == values[0] for value in values) else values
    completions = tuple(completion for row in rows for completion in row.completions)
    return replace(first, completions=completions, columns=columns, preference=None, logps=None, steps=None)


def shown_text(completion: Text) -> str:
    """A completion as a judge sees it: its text, or its turns if it has several."""
    several = not isinstance(completion, str) and len(completion) > 1
    return written(completion) if several else last_content(completion)


def with_preference(
    group: PromptGroup, pairs: Sequence[Pair], shares: Sequence[float], *, annotator: str, as_probability: bool
) -> PromptGroup:
    """The group, best completion first, ranked by the sum of its shares against the others; equal sums tie.

    shares           for each pair, the share of `a`
    as_probability   of two completions: the share of the better one as `chosen_probability`, and no tie
    """
    wins = np.zeros(len(group.completions))
    for pair, share in zip(pairs, shares, strict=True):
        wins[pair.a] += share
        wins[pair.b] += 1 - share
    order = sorted(range(len(wins)), key=lambda k: -wins[k])  # stable: ties stay in the file's order
    best_first = _in_order(group, order)
    if as_probability:
        probability = float(max(wins))
        preference = Preference(ranking=(1, 2), chosen_probability=probability, annotator=annotator)
        return replace(best_first, preference=preference)
    ranks: list[int] = []
    for place, k in enumerate(order):
        is_equal = place > 0 and wins[order[place - 1]] - wins[k] < EQUAL
        ranks.append(ranks[-1] if is_equal else place + 1)
    return replace(best_first, preference=Preference(ranking=tuple(ranks), annotator=annotator))


def _in_order(group: PromptGroup, order: Sequence[int]) -> PromptGroup:
    """The completions in another order, and with them every column that has an entry for each."""
    columns = columns_in_order(group.columns, order)
    return replace(group, completions=tuple(group.completions[k] for k in order), columns=columns)


def columns_in_order(columns: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """The columns of completions that get this order: a list with an entry for each follows them."""
    return {
        name: [value[k] for k in order] if isinstance(value, list) and len(value) == len(order) else value
        for name, value in columns.items()
    }
