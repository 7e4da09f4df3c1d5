"""The ordered pairs in comparisons and rankings, and how well a reward ranks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from assent.data.texts import last_content
from assent.errors import ConfigError, DataError
from assent.evaluation.answers import text
from assent.evaluation.generators import rank_writers
from assent.evaluation.reward_model import reward_model_quality
from assent.rewards.base import Reward, checked_reward
from assent.statistics.agreement import annotators_agreement
from assent.types import PromptGroup

MAX_SLICES = 50
"""A column with more values than this is not used for slices."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """B ordered pairs: `rows[b]` is the group, `chosen[b]` and `rejected[b]` are its completions. `slices`: column to
    (B,) values. `num_tied` pairs were left out because their labels tie. `num_weighted` groups have a weight other than
    1, which is for training: here every pair counts once."""

    rows: list[int]
    chosen: list[int]
    rejected: list[int]
    prompts: list[str]
    slices: dict[str, list[str]]
    num_tied: int
    num_weighted: int = 0

    def describe(self) -> str:
        """How many pairs there are, and what was left out."""
        ties = f" ({self.num_tied} ties left out)" if self.num_tied else ""
        weights = f" (the weights of {self.num_weighted} rows are not used)" if self.num_weighted else ""
        return f"{len(self.rows):,} pairs of {len(set(self.prompts)):,} prompts{ties}{weights}"


def pairs_of(groups: Sequence[PromptGroup], *, slices: Sequence[str] = ()) -> Pairs:
    """All ordered pairs of the groups' rankings. A `chosen_probability` below ½ reverses its pair.

    Raises DataError for a group that is neither a comparison nor a ranking, and if no pair is ordered. Raises
    ConfigError for a column of `slices` that a row lacks or that has more than 50 values.
    """
    rows: list[int] = []
    sides: list[tuple[int, int]] = []
    num_tied = 0
    for n, group in enumerate(groups):
        preference = group.preference
        ranks: Sequence[float] | None = None if preference is None else preference.ranking
        if ranks is None and preference is not None and preference.scores is not None:
            ranks = [-score for score in preference.scores]
        if ranks is not None and preference is not None and (p := preference.chosen_probability) is not None:
            ranks = [rank * (2 * p - 1) for rank in ranks]  # unchanged for p above ½, reversed below it
        if ranks is None or len(group.completions) < 2:
            raise DataError(
                f"{group.source or 'a row'} is neither a comparison nor a ranking",
                got=f"{len(group.completions)} completion(s)",
                expected="prompt, chosen, rejected; or prompt, completions and ranking or scores",
            )
        for i, j in combinations(range(len(ranks)), 2):
            if ranks[i] == ranks[j]:
                num_tied += 1
                continue
            rows.append(n)
            sides.append((i, j) if ranks[i] < ranks[j] else (j, i))
    if not rows:
        raise DataError("there is no ordered pair of completions", got=f"{num_tied} ties")
    found = slices_of([groups[n] for n in rows], slices)
    prompts = [repr(groups[n].prompt) for n in rows]
    num_weighted = sum(group.preference is not None and group.preference.weight != 1.0 for group in groups)
    return Pairs(rows, [i for i, _ in sides], [j for _, j in sides], prompts, found, num_tied, num_weighted)


def slices_of(groups: Sequence[PromptGroup], columns: Sequence[str]) -> dict[str, list[str]]:
    """Column to its value in each group. Raises ConfigError for a column that a row lacks or that has more than 50
    values."""
    found = {column: [_value(group, column) for group in groups] for column in columns}
    for column, values in found.items():
        if len(set(values)) > MAX_SLICES:
            raise ConfigError(
                f"slices: the column {column} has too many values", got=len(set(values)), expected=f"up to {MAX_SLICES}"
            )
    return found


def _value(group: PromptGroup, column: str) -> str:
    if column == "annotator" and group.preference is not None and group.preference.annotator is not None:
        return group.preference.annotator
    if column not in group.columns:
        known = ", ".join(sorted(group.columns)) or "none"
        raise ConfigError(
            f"slices: {group.source or 'a row'} has no column {column}",
            got=f"columns besides prompt and completions: {known}",
            expected="a column that every row has",
        )
    return str(group.columns[column])


def judge_reward(
    reward: Reward, groups: Sequence[PromptGroup], pairs: Pairs, *, seed: int = 0, rank_by: str | None = None
) -> dict[str, Any]:
    """`RewardModelQuality.as_dict()` of the reward on the pairs, with lengths in characters and intervals clustered by
    prompt. Adds the annotators' `agreement` if pairs have several labels, and `ensemble_std` for an ensemble.

    rank_by   column that names the writer of each completion: adds `ranking`, the result of `rank_writers`
    """
    flat = [(group, text(completion)) for group in groups for completion in group.completions]
    rows = [group for group, _ in flat]
    answers = [last_content(completion) for group in groups for completion in group.completions]
    found = checked_reward(reward, [row.prompt for row in rows], answers, groups=rows)
    scores = np.array(found)
    lengths = np.array([len(t) for _, t in flat], dtype=np.float64)
    starts = np.cumsum([0, *(len(group.completions) for group in groups)])
    chosen, rejected = (starts[pairs.rows] + np.array(side) for side in (pairs.chosen, pairs.rejected))
    quality = reward_model_quality(
        scores[chosen],
        scores[rejected],
        clusters=pairs.prompts,
        chosen_lengths=lengths[chosen],
        rejected_lengths=lengths[rejected],
        slices=pairs.slices,
        seed=seed,
    )
    texts = [(flat[a][1], flat[b][1]) for a, b in zip(chosen, rejected, strict=True)]
    items = [(prompt, *sorted(both)) for prompt, both in zip(pairs.prompts, texts, strict=True)]
    agreement = annotators_agreement(items, [a < b for a, b in texts], pairs.prompts)
    return {
        **quality.as_dict(),
        "agreement": None if agreement is None else agreement.as_dict(),
        **({} if rank_by is None else {"ranking": _ranking(groups, scores, starts, rank_by, seed)}),
        **found.statistics,
    }


def _ranking(
    groups: Sequence[PromptGroup], scores: np.ndarray, starts: np.ndarray, rank_by: str, seed: int
) -> dict[str, Any]:
    by_group = [scores[start:end].tolist() for start, end in pairwise(starts.tolist())]
    labels = []
    for group in groups:
        assert group.preference is not None
        ranks = group.preference.ranking
        labels.append([-float(r) for r in ranks] if ranks is not None else list(group.preference.scores or ()))
    return rank_writers(groups, by_group, labels, column=rank_by, seed=seed)
