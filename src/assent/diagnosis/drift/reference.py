"""The baseline as later days are compared with it: what it chose, its counts, its seasons and how its days differ.

Legend: W weekdays (1 without a season), V words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assent.diagnosis.drift.baseline import LEAST_ROWS, MOST_NAMES, Chosen, Floats, choose, chooses
from assent.diagnosis.drift.encoding import NO_DAY, Bags, Encoder, Rows, Vocabulary, hash_of
from assent.diagnosis.drift.served import Served
from assent.diagnosis.drift.tables import Tables, count
from assent.errors import DataError
from assent.statistics.homogeneity import overdispersion

PROMPT_WORDS, COMPLETION_WORDS = 1000, 200
LEAST_TEXTS = 10
"""Rows of the choosing third that a word must be in, to be in a vocabulary."""
SAMPLE_ROWS, SAMPLE_A_DAY = 2000, 300
"""Rows whose words are kept for the classifier: of the baseline, and of each day."""
CERTAIN = 0.01
"""p-value below which the baseline's days are held to differ more than independent rows do."""
LEAST_DAYS = 14
"""Days of a baseline from which on weekdays are compared with their like."""
Season = Literal["auto", "week", "none"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The prompts' words of the rows with the smallest keys: the same rows, whoever counts in whatever order. Anchors
    are nobody's prompts, and in no sample."""

    key: NDArray[np.uint64]
    weekday: NDArray[np.int64]
    words: Bags

    @staticmethod
    def of(rows: Rows, most: int) -> Sample:
        rows = rows.take(rows.anchor == 0)
        return Sample(rows.key, rows.day % 7, rows.prompt_words).cut(most)

    def take(self, chosen: NDArray[np.int64]) -> Sample:
        return Sample(self.key[chosen], self.weekday[chosen], self.words.take(chosen))

    def cut(self, most: int) -> Sample:
        return self.take(np.argsort(self.key, kind="stable")[:most])

    @staticmethod
    def joined(parts: Sequence[Sample]) -> Sample:
        return Sample(
            np.concatenate([part.key for part in parts]),
            np.concatenate([part.weekday for part in parts]),
            Bags.joined([part.words for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What days are compared with.

    tables     counts of the two thirds that do not choose, (W, …) for each name
    inflation  by how much a table's counts differ more between days than independent rows do; 1 where that is not known
    sample     prompts for the classifier
    slices     names of the slices that are told apart, in the order of their places
    num_rows, num_days   of the whole baseline; 0 days where rows have no time
    """

    prompt_words: Vocabulary
    completion_words: Vocabulary
    chosen: Chosen
    tables: Tables
    inflation: Mapping[str, float]
    sample: Sample
    slices: tuple[str, ...]
    num_rows: int
    num_days: int

    @property
    def encoder(self) -> Encoder:
        return Encoder(self.prompt_words, self.completion_words)

    @cached_property
    def whole_weeks(self) -> Tables:
        """The tables of all weekdays together, (1, …)."""
        return {name: counts.sum(axis=0, keepdims=True) for name, counts in self.tables.items()}

    @property
    def is_seasonal(self) -> bool:
        return len(self.tables["rows"]) == 7

    def place_of(self, day: int) -> int:
        """The place in W of a day."""
        return day % 7 if self.is_seasonal else 0


def fit(served: Sequence[Served], *, season: Season = "auto") -> Reference:
    """Learns from the rows of the release. Raises DataError for too few."""
    if len(served) < LEAST_ROWS:
        raise DataError(
            "the baseline is too small", got=f"{len(served)} rows", expected=f"at least {LEAST_ROWS}",
            fix="give logs of the days after the release, or answers of the released model to the same kind of prompts",
        )  # fmt: skip
    choosing = [row for row in served if row.anchor is None and hash_of(row.prompt, row.completion) % 3 == 0]
    prompts = Vocabulary.of((row.prompt for row in choosing), most=PROMPT_WORDS, least=LEAST_TEXTS)
    completions = Vocabulary.of((row.completion for row in choosing), most=COMPLETION_WORDS, least=LEAST_TEXTS)
    rows = Encoder(prompts, completions).encode(served)
    names = {hash_of(row.slice): row.slice for row in served if row.slice is not None}
    return fit_rows(rows, prompts=prompts, completions=completions, slices=names, season=season)


def fit_rows(
    rows: Rows, *, prompts: Vocabulary, completions: Vocabulary, slices: Mapping[int, str], season: Season = "auto"
) -> Reference:
    """The same of encoded rows. `slices`: names by hash."""
    first = chooses(rows)
    chosen = choose(rows.take(first), num_prompt_words=prompts.size, num_completion_words=completions.size)
    rest = rows.take(~first)
    days = np.unique(rows.day[rows.day != NO_DAY])
    seasonal = _is_seasonal(days, season)
    by_day = [(int(day), count(rest.take(rest.day == day), chosen)) for day in np.unique(rest.day)]
    places = 7 if seasonal else 1
    tables: dict[str, Floats] = {}
    for day, found in by_day:
        for name, counts in found.items():
            whole = tables.setdefault(name, np.zeros((places, *counts.shape)))
            whole[day % 7 if seasonal else 0] += counts
    timed = [(day, found) for day, found in by_day if day != NO_DAY]
    return Reference(
        prompt_words=prompts,
        completion_words=completions,
        chosen=chosen,
        tables=tables,
        inflation={name: _inflation(name, timed, seasonal=seasonal) for name in tables},
        sample=Sample.of(rest, SAMPLE_ROWS),
        slices=tuple(slices.get(int(name), "no slice") for name in chosen.slices[:MOST_NAMES]),
        num_rows=len(rows),
        num_days=len(days),
    )


def _is_seasonal(days: NDArray[np.int64], season: Season) -> bool:
    weekdays = np.bincount(days % 7, minlength=7)
    if season == "week" and weekdays.min() < 1:
        raise DataError(
            "the baseline lacks weekdays", got=f"{len(days)} days", expected="each weekday at least once",
            fix="give a baseline of whole weeks, or --season none",
        )  # fmt: skip
    return season == "week" or (season == "auto" and len(days) >= LEAST_DAYS and weekdays.min() >= 2)


def _inflation(name: str, by_day: Sequence[tuple[int, Mapping[str, Floats]]], *, seasonal: bool) -> float:
    """Pearson's χ² over its freedom among the days (of one weekday), where it cannot be chance."""
    if name == "rows" or name.startswith("rating/words") or len(by_day) < LEAST_DAYS // 2:
        return 1.0
    ratios, weights, p_values = [], [], []
    for place in range(7 if seasonal else 1):
        days = [found[name] for day, found in by_day if name in found and (not seasonal or day % 7 == place)]
        if len(days) < 2:
            continue
        counts = np.stack([day.sum(axis=0) if day.ndim > 1 else day for day in days])
        ratio, p_value = overdispersion(counts)
        ratios.append(ratio)
        weights.append(len(days) - 1)
        p_values.append(p_value)
    if not ratios or min(p_values) * len(p_values) > CERTAIN:
        return 1.0
    return max(1.0, float(np.average(ratios, weights=weights)))
