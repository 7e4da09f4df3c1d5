"""What a reward model can learn from: rankings of K completions, or labels of single completions and of their steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from assent.errors import DataError
from assent.stages.selecting import Selected, to_rankings
from assent.types import Preference, PromptGroup


def rankings_for(groups: Sequence[PromptGroup], *, loss: str, accepts: frozenset[str]) -> Selected:
    """Every group of two or more, best first; those whose completions all tie are refused, unless the loss knows ties.

    accepts   what the loss can use, as in its declaration: many, tied, margin, chosen_probability
    Raises DataError for a group that is no ranking, or has what the loss would ignore.
    """
    for group in groups:
        judged = group.preference or Preference()
        number = len(group.completions)
        if number < 2 or (judged.ranking is None and judged.scores is None):
            raise DataError(
                f"{group.source or 'a row'} is no comparison and no ranking",
                got=f"{number} completion(s), {judged.kind}",
                expected="two completions or more and their order (prompt, chosen, rejected; ranking; scores)",
                fix="for thumbs and single scores use --loss-type bce or mse; for demonstrations `assent sft`",
            )
        if number > 2 and "many" not in accepts:
            raise DataError(
                f"{group.source or 'a row'} ranks more completions than the loss {loss} can compare",
                got=f"{number} completions",
                expected="two",
                fix="--loss-type plackett_luce, or all_pairs",
            )
        for column in ("margin", "chosen_probability"):
            if getattr(judged, column) is not None and column not in accepts:
                raise DataError(
                    f"{group.source or 'a row'} has a {column}, which the loss {loss} does not use",
                    got=getattr(judged, column),
                    fix=f"use a loss that does (bradley_terry), or take the column {column} out of the data",
                )
    return to_rankings(groups, ties="tied" in accepts)


def to_labelled(groups: Sequence[PromptGroup], *, loss: str, process: bool) -> Selected:
    """Every completion with its label as its score: thumbs 1 and 0, ratings as they are, of steps the last one's.

    With `process`, groups with a label for each step, as they are. Raises DataError for a group without labels, and
    for one outside [0, 1] where the loss is a cross-entropy.
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
                f"{group.source or 'a row'} has a label that is no probability",
                got=", ".join(f"{label:g}" for label in labels),
                expected="numbers in [0, 1] for --loss-type bce",
                fix="--loss-type mse",
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
    """Groups that have completions, whatever is said of them. DataError where there are none."""
    for group in groups:
        if not group.completions:
            raise DataError(f"{group.source or 'a row'} has no completion to score", expected="prompt, completion")
    return [replace(group, preference=None, logps=None, steps=None) for group in groups], {}
