"""Selects the groups that a stage can use: demonstrations, comparisons, rankings, thumbs, labels or prompts.

A group that a stage cannot use is refused and counted by reason, or is an error that names the group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from assent.errors import DataError
from assent.types import Preference, PromptGroup

Selected = tuple[list[PromptGroup], dict[str, list[str]]]
"""The groups that a stage uses, and the sources of the refused groups by reason."""
Select = Callable[[Sequence[PromptGroup]], Selected]
"""A function that selects groups."""

TIE = "a tie: neither completion is better"


def to_comparisons(groups: Sequence[PromptGroup], *, ties: bool = False) -> Selected:
    """Keeps every group of two, the better completion first, `ranking` (1, 2). Keeps ties as (1, 1) if `ties`.

    Raises DataError for a group that is not a comparison (a demonstration, thumbs, more than two completions): such a
    file is for another command.
    """
    for group in groups:
        judged = group.preference or Preference()
        if len(group.completions) != 2 or _ranks(judged) is None:
            raise DataError(
                f"{group.source or 'a row'} is not a comparison",
                got=_held(group),
                expected="two completions and which of them is better (prompt, chosen, rejected)",
                fix=_fix(group, _OTHER_COMMAND.get(judged.kind, "for demonstrations use `assent sft`")),
            )
    return to_rankings(groups, ties=ties)


def _held(group: PromptGroup) -> str:
    """What a group has, and which columns of its row nothing read."""
    judged = group.preference or Preference()
    unread = f"; not read: {', '.join(group.columns)}" if group.columns and not group.completions else ""
    return f"{len(group.completions)} completion(s), {judged.kind}{unread}"


def _fix(group: PromptGroup, otherwise: str) -> str:
    if group.completions or not group.columns:
        return otherwise
    return "say which columns hold the answers and the judgement: --columns THEIRS=OURS (docs/data.md)"


def to_rankings(groups: Sequence[PromptGroup], *, ties: bool = False) -> Selected:
    """Keeps every group of two or more, the best completion first, `ranking` counted from 1, equal ranks for ties.

    Refuses groups in which all completions tie, unless `ties`. Raises DataError for a group that is not a ranking.
    """
    rankings: list[PromptGroup] = []
    refused: dict[str, list[str]] = {}
    for group in groups:
        judged = group.preference or Preference()
        ranks = _ranks(judged)
        if len(group.completions) < 2 or ranks is None:
            raise DataError(
                f"{group.source or 'a row'} is not a ranking",
                got=f"{len(group.completions)} completion(s), {judged.kind}",
                expected="at least two completions and their order (ranking, or scores)",
                fix=_OTHER_COMMAND.get(judged.kind, "for demonstrations use `assent sft`"),
            )
        if len(set(ranks)) == 1 and not ties:
            refused.setdefault(TIE, []).append(group.source)
        else:
            rankings.append(_best_first(group, judged, ranks))
    return rankings, refused


_OTHER_COMMAND = {
    "thumbs": "for thumbs use `assent kto`",
    "ranking": "for more than two completions use a loss of rankings: --loss-type plackett_luce",
    "scores": "for more than two completions use a loss of rankings: --loss-type plackett_luce",
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
    """Keeps K = 1 groups with a thumb. `split_comparisons` turns a pair into a thumb up and a thumb down.

    Refuses a pair without a better completion. Raises DataError for anything else.
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
                    expected="comparisons without this column",
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
                fix="use --split-comparisons: the chosen completion becomes a thumb up, the rejected one a thumb down"
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
    """`select`, which then also refuses rows without logged log-probabilities."""

    def selected(groups: Sequence[PromptGroup]) -> Selected:
        kept, refused = select(groups)
        without = [group.source for group in kept if group.logps is None]
        if without:
            refused = {**refused, "no logged log-probabilities (chosen_logps, rejected_logps)": without}
        return [group for group in kept if group.logps is not None], refused

    return selected


def without_logged(select: Select) -> Select:
    """`select`, which then also drops logged log-probabilities, because a model is the reference."""

    def selected(groups: Sequence[PromptGroup]) -> Selected:
        kept, refused = select(groups)
        return [replace(group, logps=None) for group in kept], refused

    return selected


def demonstrations_of(train_on: str) -> Select:
    """What `sft` selects: demonstrations, with `each` one for each assistant turn of a conversation."""
    return to_turns if train_on == "each" else to_demonstrations


def to_turns(groups: Sequence[PromptGroup]) -> Selected:
    """Demonstrations of one assistant turn each: all that stands before the turn is its prompt."""
    demonstrations, refused = to_demonstrations(groups)
    return [one for group in demonstrations for one in _turns(group)], refused


def _turns(group: PromptGroup) -> list[PromptGroup]:
    [completion] = group.completions
    if isinstance(completion, str) or isinstance(group.prompt, str):
        return [group]
    turns = [i for i, message in enumerate(completion) if message.role == "assistant"]
    if len(turns) < 2:
        return [group]
    first = len(group.prompt) + 1
    return [
        replace(
            group,
            prompt=group.prompt + completion[:i],
            completions=(completion[i : i + 1],),
            source=f"{group.source}, turn {first + i}",
        )
        for i in turns
    ]


def to_demonstrations(groups: Sequence[PromptGroup]) -> Selected:
    """Keeps K = 1 groups as they are, and the chosen completion of a comparison. Refuses thumbs down.

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
                f"{group.source or 'a row'} is not a demonstration",
                got=f"{len(group.completions)} completion(s), {judged.kind}",
                expected="one completion (prompt, completion; or messages), or a comparison with a better one",
                fix="for comparisons and rankings use `assent dpo` or `assent reward`; for thumbs `assent kto`",
            )
        best = 0 if ranks[0] < ranks[1] else 1
        weight = None if judged.weight == 1 else Preference(weight=judged.weight)
        demonstrations.append(replace(group, completions=(group.completions[best],), preference=weight, logps=None))
    return demonstrations, refused


def to_prompts(groups: Sequence[PromptGroup]) -> Selected:
    """Keeps only the prompts. Completions in the file are not used."""
    return [replace(group, completions=(), preference=None, logps=None, steps=None) for group in groups], {}


def rankings_for(groups: Sequence[PromptGroup], *, loss: str, accepts: frozenset[str]) -> Selected:
    """Keeps every group of two or more, best first, for a reward model. Refuses groups in which all completions tie,
    unless the loss can use ties.

    accepts   what the loss can use, as in its declaration: many, tied, margin, chosen_probability
    Raises DataError for a group that is not a ranking, or has a column that the loss would ignore.
    """
    for group in groups:
        judged = group.preference or Preference()
        number = len(group.completions)
        if number < 2 or (judged.ranking is None and judged.scores is None):
            raise DataError(
                f"{group.source or 'a row'} is neither a comparison nor a ranking",
                got=_held(group),
                expected="at least two completions and their order (prompt, chosen, rejected; ranking; scores)",
                fix=_fix(
                    group, "for thumbs and single scores use --loss-type bce or mse; for demonstrations `assent sft`"
                ),
            )
        if number > 2 and "many" not in accepts:
            raise DataError(
                f"{group.source or 'a row'} ranks more completions than the loss {loss} can compare",
                got=f"{number} completions",
                expected="two completions",
                fix="use --loss-type plackett_luce, or all_pairs",
            )
        for column in ("margin", "chosen_probability"):
            if getattr(judged, column) is not None and column not in accepts:
                raise DataError(
                    f"{group.source or 'a row'} has a {column}, which the loss {loss} does not use",
                    got=getattr(judged, column),
                    expected=f"no column {column}",
                    fix=f"use a loss that reads it (bradley_terry), or drop the column {column} from the data",
                )
    return to_rankings(groups, ties="tied" in accepts)


def to_labelled(groups: Sequence[PromptGroup], *, loss: str, process: bool) -> Selected:
    """Keeps every completion with its label as its score: 1 or 0 for thumbs, the rating, or the last step's label.

    With `process`, keeps groups with a label for each step as they are. Raises DataError for a group without labels,
    and for a label outside [0, 1] if the loss is a cross-entropy.
    """
    kept = []
    for group in groups:
        preference = group.preference or Preference()
        labels = _labels(preference, process=process)
        if labels is None or not group.completions:
            raise DataError(
                f"{group.source or 'a row'} has no label for {'each step' if process else 'each completion'}",
                got=f"{len(group.completions)} completion(s), {preference.kind}",
                expected="prompt, completions, labels (one for each step)"
                if process
                else "prompt, completion, label or score; prompt, completions, scores or labels",
                fix="for comparisons and rankings use --loss-type bradley_terry, plackett_luce or all_pairs",
            )
        if loss == "bce" and not all(0.0 <= label <= 1.0 for label in labels):
            raise DataError(
                f"{group.source or 'a row'} has a label that is not a probability",
                got=", ".join(f"{label:g}" for label in labels),
                expected="numbers in [0, 1] for --loss-type bce",
                fix="use --loss-type mse",
            )
        if not process:
            preference = replace(preference, scores=labels, thumbs=None, step_labels=None, ranking=None)
        kept.append(replace(group, preference=preference, steps=group.steps if process else None))
    return kept, {}


def _labels(preference: Preference, *, process: bool) -> tuple[float, ...] | None:
    if process:
        return None if preference.step_labels is None else sum(preference.step_labels, ())
    if preference.thumbs is not None:
        return tuple(map(float, preference.thumbs))
    if preference.step_labels is not None:
        return tuple(labels[-1] for labels in preference.step_labels)
    return preference.scores


def to_completions(groups: Sequence[PromptGroup]) -> Selected:
    """Keeps the completions without their preferences. DataError for a group without completions."""
    for group in groups:
        if not group.completions:
            raise DataError(
                f"{group.source or 'a row'} has no completion to score",
                got="a prompt alone",
                expected="prompt, completion",
                fix="use a file with completions: `assent sample` writes one",
            )
    return [replace(group, preference=None, logps=None, steps=None) for group in groups], {}


def _ranks(preference: Preference) -> tuple[float, ...] | None:
    if preference.ranking is not None:
        return preference.ranking
    return None if preference.scores is None else tuple(-score for score in preference.scores)
