"""What a stage can use of the groups it is given: demonstrations, comparisons, prompts. What it cannot is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from assent.errors import DataError
from assent.types import Preference, PromptGroup

Selected = tuple[list[PromptGroup], dict[str, list[str]]]
"""The groups a stage uses, and by reason the sources of those it refused."""
Select = Callable[[Sequence[PromptGroup]], Selected]
"""Keeps the groups a stage can use, and names the sources of those it refuses by reason."""


TIE = "a tie: neither completion is better"


def to_comparisons(groups: Sequence[PromptGroup], *, ties: bool = False) -> Selected:
    """Every group of two, the better completion first, `ranking` (1, 2); ties (1, 1) if `ties`, else refused.

    Raises DataError for a group that is no comparison at all (a demonstration, thumbs, more than two completions):
    such a file belongs to another command.
    """
    for group in groups:
        judged = group.preference or Preference()
        if len(group.completions) != 2 or _ranks(judged) is None:
            raise DataError(
                f"{group.source or 'a row'} is no comparison",
                got=f"{len(group.completions)} completion(s), {judged.kind}",
                expected="two completions and which of them is better (prompt, chosen, rejected)",
                fix=_OTHER_COMMAND.get(judged.kind, "for demonstrations use `assent sft`"),
            )
    return to_rankings(groups, ties=ties)


def to_rankings(groups: Sequence[PromptGroup], *, ties: bool = False) -> Selected:
    """Every group of two or more, the best completion first, `ranking` counted from 1, equal ranks for ties.

    Groups in which all tie are refused unless `ties`. Raises DataError for a group that is no ranking.
    """
    rankings: list[PromptGroup] = []
    refused: dict[str, list[str]] = {}
    for group in groups:
        judged = group.preference or Preference()
        ranks = _ranks(judged)
        if len(group.completions) < 2 or ranks is None:
            raise DataError(
                f"{group.source or 'a row'} is no ranking",
                got=f"{len(group.completions)} completion(s), {judged.kind}",
                expected="two or more completions and their order (ranking, or scores)",
                fix=_OTHER_COMMAND.get(judged.kind, "for demonstrations use `assent sft`"),
            )
        if len(set(ranks)) == 1 and not ties:
            refused.setdefault(TIE, []).append(group.source)
        else:
            rankings.append(_best_first(group, judged, ranks))
    return rankings, refused


_OTHER_COMMAND = {
    "thumbs": "for thumbs use `assent kto`",
    "ranking": "rankings of more than two need a loss of rankings: --loss-type plackett_luce",
    "scores": "rankings of more than two need a loss of rankings: --loss-type plackett_luce",
}


def _best_first(group: PromptGroup, judged: Preference, ranks: tuple[float, ...]) -> PromptGroup:
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    place = {rank: 1 + i for i, rank in enumerate(sorted(set(ranks)))}
    probability = judged.chosen_probability
    return replace(
        group,
        completions=tuple(group.completions[i] for i in order),
        logps=None if group.logps is None else tuple(group.logps[i] for i in order),
        preference=replace(
            judged,
            ranking=tuple(place[ranks[i]] for i in order),
            scores=None if judged.scores is None else tuple(judged.scores[i] for i in order),
            chosen_probability=probability if probability is None or order[0] == 0 else 1 - probability,
        ),
    )


def to_thumbs(groups: Sequence[PromptGroup], *, split_comparisons: bool = False) -> Selected:
    """K = 1 groups with a thumb up or down; of a comparison, if asked for, the chosen one up and the rejected one down.

    A pair without a better completion is refused. Raises DataError for anything else.
    """
    thumbs: list[PromptGroup] = []
    refused: dict[str, list[str]] = {}
    for group in groups:
        judged = group.preference or Preference()
        ranks = _ranks(judged)
        if len(group.completions) == 1 and judged.thumbs is not None:
            thumbs.append(group)
        elif split_comparisons and len(group.completions) == 2 and ranks is not None:
            if ranks[0] == ranks[1]:
                refused.setdefault(TIE, []).append(group.source)
            elif idle := [n for n in ("margin", "chosen_probability") if getattr(judged, n) is not None]:
                raise DataError(
                    f"{group.source or 'a row'} has a column that thumbs cannot carry",
                    got=idle[0],
                    fix="drop the column, or train on the comparisons themselves with `assent dpo`",
                )
            else:
                thumbs += [_thumb(group, judged, k, up=ranks[k] == min(ranks)) for k in range(2)]
        else:
            compared = len(group.completions) == 2 and ranks is not None
            raise DataError(
                f"{group.source or 'a row'} has no thumb",
                got=f"{len(group.completions)} completion(s), {judged.kind}",
                expected="one completion and whether it is desirable (prompt, completion, label)",
                fix="--split-comparisons takes the chosen one as a thumb up, the other as a thumb down"
                if compared
                else None,
            )
    return thumbs, refused


def _thumb(group: PromptGroup, judged: Preference, k: int, *, up: bool) -> PromptGroup:
    return replace(
        group,
        completions=(group.completions[k],),
        preference=Preference(thumbs=(up,), weight=judged.weight, annotator=judged.annotator),
        logps=None if group.logps is None else (group.logps[k],),
        source=f"{group.source} ({'chosen' if up else 'rejected'})",
    )


def only_logged(select: Select) -> Select:
    """`select`, and rows without logged log-probabilities are refused."""

    def selected(groups: Sequence[PromptGroup]) -> Selected:
        kept, refused = select(groups)
        without = [group.source for group in kept if group.logps is None]
        if without:
            refused = {**refused, "no logged log-probabilities (chosen_logps, rejected_logps)": without}
        return [group for group in kept if group.logps is not None], refused

    return selected


def without_logged(select: Select) -> Select:
    """`select`; logged log-probabilities are left out, for the reference is read from a model."""

    def selected(groups: Sequence[PromptGroup]) -> Selected:
        kept, refused = select(groups)
        return [replace(group, logps=None) for group in kept], refused

    return selected


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
        ranks = _ranks(judged)
        if len(group.completions) != 2 or ranks is None or ranks[0] == ranks[1]:
            raise DataError(
                f"{group.source or 'a row'} is no demonstration",
                got=f"{len(group.completions)} completion(s), {judged.kind}",
                expected="one completion (prompt, completion; or messages), or a comparison, whose chosen one is used",
            )
        best = 0 if ranks[0] < ranks[1] else 1
        weight = None if judged.weight == 1 else Preference(weight=judged.weight)
        demonstrations.append(replace(group, completions=(group.completions[best],), preference=weight, logps=None))
    return demonstrations, refused


def to_prompts(groups: Sequence[PromptGroup]) -> Selected:
    """The prompts alone: completions in the file are not used."""
    return [replace(group, completions=(), preference=None, logps=None, steps=None) for group in groups], {}


def _ranks(preference: Preference) -> tuple[float, ...] | None:
    if preference.ranking is not None:
        return preference.ranking
    return None if preference.scores is None else tuple(-score for score in preference.scores)
