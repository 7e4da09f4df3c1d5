"""What a stage can use of the groups it is given: demonstrations, comparisons, prompts. What it cannot is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from assent.errors import DataError
from assent.types import Preference, PromptGroup

Selected = tuple[list[PromptGroup], dict[str, list[str]]]
"""The groups a stage uses, and by reason the sources of those it refused."""


def to_comparisons(groups: Sequence[PromptGroup]) -> Selected:
    """Every group of two, the better completion first, `ranking` (1, 2). Ties are refused.

    Raises DataError for a group that is no comparison at all (a demonstration, thumbs, more than two completions):
    such a file belongs to another command.
    """
    comparisons: list[PromptGroup] = []
    refused: dict[str, list[str]] = {}
    for group in groups:
        preference = group.preference or Preference()
        ranks = ranks_of(preference)
        if len(group.completions) != 2 or ranks is None:
            raise DataError(
                f"{group.source or 'a row'} is no comparison",
                got=f"{len(group.completions)} completion(s), {kind_of(preference)}",
                expected="two completions and which of them is better (prompt, chosen, rejected)",
                fix="for demonstrations use `assent sft`",
            )
        if ranks[0] == ranks[1]:
            refused.setdefault("a tie: neither completion is better", []).append(group.source)
            continue
        comparisons.append(best_first(group))
    return comparisons, refused


def best_first(group: PromptGroup) -> PromptGroup:
    """A ranked group with its completions in order, `ranking` from 1 and without gaps; among ties the order stays."""
    preference = group.preference or Preference()
    ranks = ranks_of(preference)
    assert ranks is not None
    places = sorted(set(ranks))
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    probability = preference.chosen_probability
    return replace(
        group,
        completions=tuple(group.completions[i] for i in order),
        logps=None if group.logps is None else tuple(group.logps[i] for i in order),
        preference=replace(
            preference,
            ranking=tuple(places.index(ranks[i]) + 1 for i in order),
            scores=None if preference.scores is None else tuple(preference.scores[i] for i in order),
            chosen_probability=probability if probability is None or order[0] == 0 else 1 - probability,
        ),
    )


def to_demonstrations(groups: Sequence[PromptGroup]) -> Selected:
    """K = 1 groups as they are; of a comparison, the chosen completion. Thumbs down are refused.

    Raises DataError for anything else.
    """
    demonstrations: list[PromptGroup] = []
    refused: dict[str, list[str]] = {}
    for group in groups:
        judged = group.preference or Preference()
        if len(group.completions) == 1 and judged.scores is None and judged.step_labels is None:
            if judged.thumbs == (False,):
                refused.setdefault("a thumb down: nothing to imitate", []).append(group.source)
            else:
                demonstrations.append(group)
            continue
        ranks = ranks_of(judged)
        if len(group.completions) != 2 or ranks is None or ranks[0] == ranks[1]:
            raise DataError(
                f"{group.source or 'a row'} is no demonstration",
                got=f"{len(group.completions)} completion(s), {kind_of(judged)}",
                expected="one completion (prompt, completion; or messages), or a comparison, whose chosen one is used",
            )
        best = 0 if ranks[0] < ranks[1] else 1
        weight = None if judged.weight == 1 else Preference(weight=judged.weight)
        demonstrations.append(replace(group, completions=(group.completions[best],), preference=weight, logps=None))
    return demonstrations, refused


def to_prompts(groups: Sequence[PromptGroup]) -> Selected:
    """The prompts alone: completions in the file are not used."""
    return [replace(group, completions=(), preference=None, logps=None, steps=None) for group in groups], {}


def is_judged(group: PromptGroup) -> bool:
    """Whether somebody has said how good its completions are (a weight alone says nothing of that)."""
    return group.preference is not None and kind_of(group.preference) != "no preference"


def ranks_of(preference: Preference) -> tuple[float, ...] | None:
    """The completions' ranks, the lowest best: the ranking, or the scores turned round; None where there is neither."""
    if preference.ranking is not None:
        return preference.ranking
    return None if preference.scores is None else tuple(-score for score in preference.scores)


def kind_of(preference: Preference) -> str:
    """What is said of the completions, for messages."""
    kinds = ("ranking", "scores", "thumbs", "step_labels")
    return next((kind for kind in kinds if getattr(preference, kind) is not None), "no preference")
