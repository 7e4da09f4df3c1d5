"""Counts of a day's rows: small tables that add up over days, so that memory does not grow with the rows.

Legend: N rows, S strata, K categories, V words.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from assent.diagnosis.drift.baseline import Chosen, Codes, Floats, place_of
from assent.diagnosis.drift.encoding import FORMATS, Rows

Tables = Mapping[str, NDArray[np.float64]]


def count(rows: Rows, chosen: Chosen) -> dict[str, Floats]:
    """Tables (S, K) of the rows, by name; `rating/words` are (V, S, K). Rows without a field are in none of its tables,
    and anchors are in their own alone.

    rows                    (1, 1) the number of rows
    prompt/…                the prompt's length, slice; in how many rows each word is, (V,)
    completion/…            behaviour, in strata of what the prompt predicts; …/leaves: in the leaves of a tree
    rating/level, words     liked or not, in strata of what the text predicts; …/crossed: with the reward model's score
    rating/asked            left or rated, by what the text predicts; …/score: by the reward model's score
    rating/holdout          not in the holdout, in it: liked or not
    reward_model/…          whether the score says what people say, in strata of the score; beyond: where the text's
                            prediction says otherwise
    judge/…, serving/…      verdicts in strata of the text, and of anchors; log-probability beyond the text's prediction
    """
    anchors = rows.take(rows.anchor != 0)
    rows = rows.take(rows.anchor == 0)
    found: dict[str, Floats] = {"rows": np.array([[len(rows)]], dtype=float)}
    said = chosen.predict(rows)
    _prompts(rows, chosen, found)
    _behaviour(rows, chosen, said, found)
    if "label" in said:
        _ratings(rows, chosen, said, found)
    if "judge" in said:
        _judge(rows, chosen, said, found)
        _anchors(anchors, chosen, found)
    if "logprob" in said:
        _logprob(rows, chosen, said, found)
    if len(chosen.models):
        kinds = len(chosen.models) + 1
        found["serving/model"] = table(np.zeros(len(rows), np.int64), place_of(rows.model, chosen.models), 1, kinds)
    return found


def table(strata: Codes, categories: Codes, num_strata: int, num_categories: int) -> Floats:
    """(S, K) counts."""
    places = strata * num_categories + categories
    counts = np.bincount(places, minlength=num_strata * num_categories)
    return counts.reshape(num_strata, num_categories).astype(float)


def _strata(chosen: Chosen, said: Mapping[str, Floats], name: str) -> tuple[Codes, int]:
    """(N,) strata of a prediction, and how many there are."""
    edges = chosen.predictions[name].edges
    return np.searchsorted(edges, said[name]), len(edges) + 1


def _crossed(rows: Rows, chosen: Chosen, said: Mapping[str, Floats], name: str) -> tuple[Codes, int]:
    """(N,) strata of a prediction and, within each, of the reward model's score; and how many there are."""
    by_text, by_score = chosen.predictions[name].crossed, chosen.bins["score_strata"]
    within = len(by_score) + 1
    return np.searchsorted(by_text, said[name]) * within + np.searchsorted(by_score, rows.score), (
        len(by_text) + 1
    ) * within


def _cut(there: NDArray[np.bool_], values: Floats, chosen: Chosen, said: Mapping[str, Floats], name: str) -> Floats:
    """A number in the categories that the baseline has chosen, in the strata of its prediction."""
    edges = chosen.bins[name]
    strata, num_strata = _strata(chosen, said, name)
    return table(strata[there], np.searchsorted(edges, values[there]), num_strata, len(edges) + 1)


def _prompts(rows: Rows, chosen: Chosen, found: dict[str, Floats]) -> None:
    one = np.zeros(len(rows), dtype=np.int64)
    if "prompt_length" in chosen.bins:
        edges = chosen.bins["prompt_length"]
        found["prompt/length"] = table(one, np.searchsorted(edges, rows.prompt_length), 1, len(edges) + 1)
    if len(chosen.slices):
        found["prompt/slice"] = table(one, place_of(rows.slice, chosen.slices), 1, len(chosen.slices) + 1)
    found["prompt/words"] = np.bincount(rows.prompt_words.places, minlength=chosen.num_prompt_words).astype(float)


def _behaviour(rows: Rows, chosen: Chosen, said: Mapping[str, Floats], found: dict[str, Floats]) -> None:
    for name, num_categories in (("length", 0), ("score", 0), ("refusal", 2), ("format", len(FORMATS)), ("ended", 2)):
        tree = chosen.predictions[name].tree if name in said else None
        if tree is None:
            continue
        values: Floats = getattr(rows, name)
        there = ~np.isnan(values)
        edges = chosen.bins.get(name, np.zeros(0))
        kinds = (values if num_categories else np.searchsorted(edges, values))[there].astype(np.int64)
        sizes = num_categories or len(edges) + 1
        strata, num_strata = _strata(chosen, said, name)
        found[f"completion/{name}"] = table(strata[there], kinds, num_strata, sizes)
        found[f"completion/{name}/leaves"] = table(
            said[f"{name}/leaves"][there].astype(np.int64), kinds, tree.num_leaves, sizes
        )


def _ratings(rows: Rows, chosen: Chosen, said: Mapping[str, Floats], found: dict[str, Floats]) -> None:
    rated = ~np.isnan(rows.label)
    free = np.nan_to_num(rows.holdout) == 0
    for name, order, bins in (("rating/asked", said["label"], "label"), ("rating/asked/score", rows.score, "score")):
        if bins in chosen.bins:
            known, edges = free & ~np.isnan(order), chosen.bins[bins]
            found[name] = table(rated[known].astype(np.int64), np.searchsorted(edges, order[known]), 2, len(edges) + 1)
    liked = (rows.label >= chosen.liked).astype(np.int64)
    strata, num_strata = _strata(chosen, said, "label")
    found["rating/level"] = table(strata[rated], liked[rated], num_strata, 2)
    found["rating/words"] = _by_word(rows, rated, strata * 2 + liked, chosen, num_strata)
    if not np.isnan(rows.holdout).all():
        inside = np.nan_to_num(rows.holdout).astype(np.int64)
        found["rating/holdout"] = table(inside[rated], liked[rated], 2, 2)
    if np.isnan(chosen.agrees):
        return
    both = rated & ~np.isnan(rows.score)
    strata, num_strata = _crossed(rows, chosen, said, "label")
    found["rating/level/crossed"] = table(strata[both], liked[both], num_strata, 2)
    found["rating/words/crossed"] = _by_word(rows, both, strata * 2 + liked, chosen, num_strata)
    right = (rows.score >= chosen.agrees) == (liked == 1)
    differ = both & (right != ((said["label"] >= chosen.text_agrees) == (liked == 1)))
    edges = chosen.bins["score_strata"]
    by_score = np.searchsorted(edges, rows.score)
    found["reward_model/agrees"] = table(by_score[both], right[both].astype(np.int64), len(edges) + 1, 2)
    found["reward_model/beyond"] = table(np.zeros(differ.sum(), np.int64), right[differ].astype(np.int64), 1, 2)


def _by_word(rows: Rows, there: NDArray[np.bool_], cells: Codes, chosen: Chosen, num_strata: int) -> Floats:
    """(V + L, S, 2): rows whose answer has the word, and rows of each category of length, by cell: stratum and whether
    they were liked."""
    part = np.flatnonzero(there)
    bags, width = rows.completion_words.take(part), num_strata * 2
    places = bags.places * np.int64(width) + np.repeat(cells[part], np.diff(bags.starts))
    edges = chosen.bins.get("length", np.zeros(0))
    lengths = chosen.num_completion_words + np.searchsorted(edges, rows.length[part])
    kinds = chosen.num_completion_words + len(edges) + 1
    counts = np.bincount(np.concatenate([places, lengths * width + cells[part]]), minlength=kinds * width)
    return counts.reshape(kinds, num_strata, 2).astype(float)


def _logprob(rows: Rows, chosen: Chosen, said: Mapping[str, Floats], found: dict[str, Floats]) -> None:
    there, beyond = ~np.isnan(rows.logprob), rows.logprob - said["logprob"]
    found["serving/logprob"] = _cut(there, beyond, chosen, said, "logprob")
    if "score_strata" in chosen.bins:
        both, edges = there & ~np.isnan(rows.score), chosen.bins["logprob"]
        strata, num_strata = _crossed(rows, chosen, said, "logprob")
        found["serving/logprob/crossed"] = table(
            strata[both], np.searchsorted(edges, beyond[both]), num_strata, len(edges) + 1
        )


def _judge(rows: Rows, chosen: Chosen, said: Mapping[str, Floats], found: dict[str, Floats]) -> None:
    there = ~np.isnan(rows.judge)
    liked = (rows.judge >= chosen.judged).astype(np.int64)
    strata, num_strata = _strata(chosen, said, "judge")
    found["judge/level"] = table(strata[there], liked[there], num_strata, 2)
    if "score" in chosen.bins:
        both = there & ~np.isnan(rows.score)
        strata, num_strata = _crossed(rows, chosen, said, "judge")
        found["judge/level/crossed"] = table(strata[both], liked[both], num_strata, 2)


def _anchors(rows: Rows, chosen: Chosen, found: dict[str, Floats]) -> None:
    """Whether the judge says of each anchor what it said most often at the release."""
    known = place_of(rows.anchor, chosen.anchors)
    asked = (known < len(chosen.anchors)) & ~np.isnan(rows.judge)
    liked = rows.judge[asked] >= chosen.judged
    same = (liked == (chosen.anchors_liked[known[asked]] == 1)).astype(np.int64)
    found["judge/anchors"] = table(np.zeros(len(same), np.int64), same, 1, 2)
