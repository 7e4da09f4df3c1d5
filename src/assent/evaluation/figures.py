"""The figures of one policy's answers in one decoding: quality, distance, form and safety, overall and by slice.

Legend: P prompts, N answers or comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from assent.evaluation.answers import Answers, distinct_n, lengths
from assent.evaluation.safety import looks_like_refusal, safety_figures
from assent.evaluation.table import Figures
from assent.judging.verdicts import PairJudge, Verdicts, judge_both_orders
from assent.statistics.comparisons import length_controlled, prompts_needed
from assent.statistics.intervals import Estimate, mean_interval, proportion_interval
from assent.types import PromptGroup

FEW_PROMPTS = 5
"""A slice with fewer prompts has no interval: three answers that agree by chance would look certain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """N comparisons of A's answers with B's answers to the same prompts."""

    prompts: np.ndarray
    """(N,) index of the prompt."""
    shares: np.ndarray
    """(N,) 1 if A's answer is better, ½ for a tie, otherwise 0."""
    longer: np.ndarray
    """(N,) characters of A's answer minus those of B's."""
    verdicts: Verdicts | None = None
    """Given if a judge compared the answers."""

    def by_prompt(self, num_prompts: int) -> np.ndarray:
        """(P,) mean share."""
        counts = np.bincount(self.prompts, minlength=num_prompts)
        result: np.ndarray = np.bincount(self.prompts, weights=self.shares, minlength=num_prompts) / counts
        return result


def compare_scores(a: Answers, b: Answers, num_prompts: int) -> Compared:
    """Compares every answer of A with every answer of B to the same prompt. The higher score wins; equal scores tie."""
    assert a.scores is not None
    assert b.scores is not None
    first, second = _all_pairs(a, b, num_prompts)
    difference = np.asarray(a.scores)[first] - np.asarray(b.scores)[second]
    return Compared(
        prompts=np.asarray(a.prompt_index)[first],
        shares=0.5 * (1 + np.sign(difference)),
        longer=lengths(a)[first] - lengths(b)[second],
    )


def compare_by_judge(
    judge: PairJudge, a: Answers, b: Answers, groups: Sequence[PromptGroup], advance: Callable[[int], None] | None
) -> Compared:
    """Has the k-th answer of A compared with the k-th of B to the same prompt, in both orders. Answers without a
    counterpart are left out."""
    both = [
        pair
        for one, two in zip(a.places(len(groups)), b.places(len(groups)), strict=True)
        for pair in zip(one, two)  # noqa: B905
    ]
    first, second = (np.array(column) for column in zip(*both, strict=True))
    rows = [groups[a.prompt_index[i]] for i in first]
    verdicts = judge_both_orders(
        judge,
        [row.prompt for row in rows],
        [a.texts[i] for i in first],
        [b.texts[i] for i in second],
        groups=rows,
        advance=advance,
    )
    longer = lengths(a)[first] - lengths(b)[second]
    prompts = np.asarray(a.prompt_index)[first]
    return Compared(prompts=prompts, shares=verdicts.shares, longer=longer, verdicts=verdicts)


def _all_pairs(a: Answers, b: Answers, num_prompts: int) -> tuple[np.ndarray, np.ndarray]:
    first: list[int] = []
    second: list[int] = []
    for one, two in zip(a.places(num_prompts), b.places(num_prompts), strict=True):
        first += [i for i in one for _ in two]
        second += list(two) * len(one)
    return np.array(first), np.array(second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One policy's answers in one decoding, with what is needed to describe them."""

    answers: Answers
    num_prompts: int
    clusters: Sequence[Any]
    """(P,) the unit of the intervals for each prompt."""
    against: Compared | None = None
    """The comparison with the baseline's answers in the same decoding; None for the baseline."""
    baseline: Answers | None = None
    is_pure_sample: bool = False
    """Drawn at temperature 1 and not selected by a reward, so that −Σ log π estimates the entropy, and k1 the KL."""
    confidence: float = 0.95
    half_width: float | None = None
    """Wanted half-width of the win rate's interval, for the number of prompts that it takes."""


def figures_of(subject: Subject, slices: Mapping[str, Sequence[str]] | None = None) -> Figures:
    """All figures of a subject. `slices`: column to its value for each prompt (P,)."""
    everything = np.ones(subject.num_prompts, dtype=bool)
    by_slice: dict[str, dict[str, Figures]] = {}
    for column, values in (slices or {}).items():
        of = np.asarray(values, dtype=str)
        by_slice[column] = {str(value): _figures(subject, of == value, is_slice=True) for value in np.unique(of)}
    return replace(_figures(subject, everything, is_slice=False), slices=by_slice)


def _figures(subject: Subject, of: np.ndarray, *, is_slice: bool) -> Figures:
    """Figures over the prompts that `of` (P,) marks."""
    answers = subject.answers
    index = np.asarray(answers.prompt_index)
    inside = np.flatnonzero(of[index])
    names = [subject.clusters[p] for p in index[inside]]
    of_prompts = np.flatnonzero(of)
    prompt_names = [subject.clusters[int(p)] for p in of_prompts]
    few = is_slice and len(set(prompt_names)) < FEW_PROMPTS

    def if_enough(estimate: Estimate) -> Estimate:
        """Without its interval if there are too few prompts."""
        return replace(estimate, low=-np.inf, high=np.inf) if few else estimate

    def mean(values: Sequence[Any] | np.ndarray | None) -> Estimate | None:
        if values is None:
            return None
        chosen = np.asarray(values, dtype=np.float64)[inside]
        return if_enough(mean_interval(chosen, clusters=names, confidence=subject.confidence))

    def share(values: Sequence[Any] | None) -> Estimate | None:
        if values is None:
            return None
        chosen = np.asarray(values, dtype=np.float64)[inside]
        return if_enough(proportion_interval(chosen, clusters=names, confidence=subject.confidence))

    def distinct(n: int) -> Estimate | None:
        rows = [(distinct_n([answers.texts[i] for i in places], n), p) for p, places in enumerate(all_places) if of[p]]
        known = [(value, subject.clusters[p]) for value, p in rows if value is not None]
        if not known:
            return None
        values, of_clusters = zip(*known, strict=True)
        return if_enough(proportion_interval(values, clusters=of_clusters, confidence=subject.confidence))

    all_places = answers.places(subject.num_prompts)
    measures = {name: [column[i] for i in inside] for name, column in answers.measures.items()}
    refused = measures.pop("refused", None)
    refusals = (
        share([looks_like_refusal(one) for one in answers.texts])
        if refused is None
        else safety_figures({"refused": refused}, clusters=names, confidence=subject.confidence).get("refused")
    )
    safety = safety_figures(measures, clusters=names, confidence=subject.confidence)
    entropy, k1, k3 = (answers.entropy, answers.k1, answers.k3) if subject.is_pure_sample else (None, None, None)
    characters = mean(lengths(answers))
    assert characters is not None
    return Figures(
        gold=mean(answers.scores),
        length=mean(answers.tokens),
        eos_rate=share(answers.ended),
        scores=() if is_slice else _by_prompt(answers, all_places),
        characters=characters,
        entropy=mean(entropy),
        k1=mean(k1),
        k3=mean(k3),
        distinct_1=distinct(1),
        distinct_2=distinct(2),
        refusal_rate=None if refusals is None else if_enough(refusals),
        safety={name: if_enough(estimate) for name, estimate in safety.items()},
        **_against(subject, of_prompts, prompt_names, if_enough, is_slice=is_slice),
    )


def _against(
    subject: Subject,
    of_prompts: np.ndarray,
    names: Sequence[Any],
    if_enough: Callable[[Estimate], Estimate],
    *,
    is_slice: bool,
) -> dict[str, Any]:
    """The figures that compare the subject with the baseline."""
    compared = subject.against
    if compared is None:
        return {"win_rate": None}
    options: dict[str, Any] = {"clusters": names, "confidence": subject.confidence}
    rate = proportion_interval(compared.by_prompt(subject.num_prompts)[of_prompts], **options)
    found: dict[str, Any] = {"win_rate": if_enough(rate)}
    if subject.answers.scores is not None and subject.baseline is not None and subject.baseline.scores is not None:
        own, other = (
            _prompt_means(one, subject.num_prompts)[of_prompts] for one in (subject.answers, subject.baseline)
        )
        found["difference"] = if_enough(mean_interval(own - other, **options))
    if not is_slice:
        found["length_controlled"] = length_controlled(
            compared.shares,
            compared.longer,
            clusters=[subject.clusters[p] for p in compared.prompts],
            confidence=subject.confidence,
        )
        if subject.half_width is not None:
            found["prompts_needed"] = prompts_needed(rate, half_width=subject.half_width)
    return found


def _by_prompt(answers: Answers, places: Sequence[Sequence[int]]) -> tuple[tuple[float, ...], ...]:
    if answers.scores is None:
        return ()
    return tuple(tuple(answers.scores[i] for i in row) for row in places)


def _prompt_means(answers: Answers, num_prompts: int) -> np.ndarray:
    """(P,) mean score."""
    assert answers.scores is not None
    index = np.asarray(answers.prompt_index)
    counts = np.bincount(index, minlength=num_prompts)
    result: np.ndarray = np.bincount(index, weights=np.asarray(answers.scores), minlength=num_prompts) / counts
    return result
