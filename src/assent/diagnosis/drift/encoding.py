"""Rows of a log as columns of numbers: what the tables count. Texts are gone after this, words are places in a list.

Legend: N rows, V words of a vocabulary.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assent.diagnosis.data_rules.refusing_answers import is_refusal
from assent.diagnosis.drift.served import Served

DAY_SECONDS = 86_400
NO_DAY = -1
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+")
NUMBER = "#"
FORMATS = ("one paragraph", "paragraphs", "list", "headings", "code", "table", "JSON", "empty")
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s", re.MULTILINE)
_TABLE = re.compile(r"^\s*\|.*\|\s*$", re.MULTILINE)


def words_of(text: str) -> list[str]:
    """Words in lower case; every number is the same word."""
    return [NUMBER if word[0].isdigit() else word for word in WORD.findall(text.lower())]


def format_of(text: str) -> int:
    """The place in FORMATS."""
    bare = text.strip()
    if not bare:
        return FORMATS.index("empty")
    if "```" in bare:
        return FORMATS.index("code")
    if bare[0] in "{[" and bare[-1] in "}]":
        return FORMATS.index("JSON")
    for pattern, name in ((_TABLE, "table"), (_HEADING, "headings"), (_LIST, "list")):
        if pattern.search(bare):
            return FORMATS.index(name)
    return FORMATS.index("paragraphs" if "\n" in bare else "one paragraph")


def hash_of(*parts: object) -> int:
    """64 bits that follow from the parts alone."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The frequent words of the baseline, the most frequent first. Place `len(words)` is every other word."""

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.words) + 1

    def places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    @staticmethod
    def of(texts: Iterable[str], *, most: int, least: int) -> Vocabulary:
        """At most `most` words, each in at least `least` of the texts."""
        found = Counter(word for text in texts for word in set(words_of(text)))
        ranked = sorted((-count, word) for word, count in found.items() if count >= least)
        return Vocabulary(tuple(word for _, word in ranked[:most]))


@dataclass(frozen=True, slots=True)
class Bags:
    """Which words of a vocabulary are in which row: row i has `places[starts[i]:starts[i + 1]]`, each once."""

    starts: NDArray[np.int64]
    places: NDArray[np.int32]

    def matrix(self, size: int) -> Any:
        """(N, V) of ones, sparse."""
        from scipy.sparse import csr_array

        shape = (len(self.starts) - 1, size)
        return csr_array((np.ones(len(self.places), dtype=np.float32), self.places, self.starts), shape=shape)

    def take(self, rows: NDArray[np.int64]) -> Bags:
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        offsets = np.repeat(self.starts[:-1][rows] - starts[:-1], lengths)
        return Bags(starts, self.places[np.arange(starts[-1]) + offsets])

    def means(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) the mean weight of each row's words; 0 without words. weights (V,)."""
        sums = np.concatenate([[0.0], np.cumsum(weights[self.places])])
        totals, lengths = sums[self.starts[1:]] - sums[self.starts[:-1]], np.diff(self.starts)
        return np.round(totals / np.maximum(1, lengths), 9)  # equal rows tie, whatever stands before them

    @staticmethod
    def of(bags: Sequence[Sequence[int]]) -> Bags:
        starts = np.concatenate([[0], np.cumsum([len(bag) for bag in bags])]).astype(np.int64)
        return Bags(starts, np.fromiter((place for bag in bags for place in bag), dtype=np.int32, count=starts[-1]))

    @staticmethod
    def joined(parts: Sequence[Bags]) -> Bags:
        starts = [np.zeros(1, dtype=np.int64)]
        for part in parts:
            starts.append(part.starts[1:] + starts[-1][-1])
        return Bags(np.concatenate(starts), np.concatenate([part.places for part in parts]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """N rows as columns. Unknown numbers are NaN, unknown days NO_DAY, unknown names 0.

    key      hash of prompt and answer: chooses parts and samples, so that the same row is always treated alike
    day      days since 1970, UTC
    ended    1, 0, or NaN;  slice, model, anchor: hashes of names
    """

    key: NDArray[np.uint64]
    day: NDArray[np.int64]
    prompt_words: Bags
    completion_words: Bags
    prompt_length: NDArray[np.float64]
    length: NDArray[np.float64]
    refusal: NDArray[np.float64]
    format: NDArray[np.float64]
    ended: NDArray[np.float64]
    label: NDArray[np.float64]
    judge: NDArray[np.float64]
    score: NDArray[np.float64]
    logprob: NDArray[np.float64]
    holdout: NDArray[np.float64]
    slice: NDArray[np.uint64]
    model: NDArray[np.uint64]
    anchor: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.key)

    def take(self, rows: NDArray[Any]) -> Rows:
        """The rows at these places, or where the mask is True."""
        places = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Rows(**{
            field.name: part.take(places) if isinstance(part := getattr(self, field.name), Bags) else part[places]
            for field in fields(self)
        })  # fmt: skip

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        return Rows(**{
            field.name: Bags.joined(columns) if isinstance(columns[0], Bags) else np.concatenate(columns)
            for field in fields(parts[0])
            if (columns := [getattr(part, field.name) for part in parts])
        })  # fmt: skip


def day_of(row: Served) -> int:
    return NO_DAY if row.time is None else math.floor(row.time / DAY_SECONDS)


class Encoder:
    """Turns rows into columns, with the vocabularies of the baseline."""

    def __init__(self, prompts: Vocabulary, completions: Vocabulary) -> None:
        self.prompts, self.completions = prompts, completions
        self._prompt_places, self._completion_places = prompts.places(), completions.places()

    def encode(self, rows: Sequence[Served], *, day: int | None = None) -> Rows:
        """`day` takes the place of the rows' own times."""
        asked = [words_of(row.prompt) for row in rows]
        answered = [words_of(row.completion) for row in rows]
        other, other_answer = len(self.prompts.words), len(self.completions.words)

        def numbers(values: Iterable[float | bool | None]) -> NDArray[np.float64]:
            return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)

        def names(values: Iterable[str | None]) -> NDArray[np.uint64]:
            return np.array([0 if value is None else hash_of(value) for value in values], dtype=np.uint64)

        return Rows(
            key=np.array([hash_of(row.prompt, row.completion) for row in rows], dtype=np.uint64),
            day=np.array([day_of(row) if day is None else day for row in rows], dtype=np.int64),
            prompt_words=Bags.of([sorted({self._prompt_places.get(word, other) for word in bag}) for bag in asked]),
            completion_words=Bags.of(
                [sorted({self._completion_places.get(word, other_answer) for word in bag}) for bag in answered]
            ),
            prompt_length=numbers(map(len, asked)),
            length=numbers(map(len, answered)),
            refusal=numbers(is_refusal(row.completion) for row in rows),
            format=numbers(format_of(row.completion) for row in rows),
            ended=numbers(row.ended for row in rows),
            label=numbers(row.label for row in rows),
            judge=numbers(row.judge for row in rows),
            score=numbers(row.score for row in rows),
            logprob=numbers(row.logprob for row in rows),
            holdout=numbers(row.holdout for row in rows),
            slice=names(row.slice for row in rows),
            model=names(row.model for row in rows),
            anchor=names(row.anchor for row in rows),
        )
