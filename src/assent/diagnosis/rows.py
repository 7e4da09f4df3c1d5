"""What a rule of data may look at: a file's rows, its audit, its ordered pairs, and a second file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from assent.data import texts
from assent.data.auditing import TextAudit, audit, ordered_pairs
from assent.data.loading import Dataset, groups_of_rows
from assent.data.splitting import conversation_root, normalise, prompt_key
from assent.diagnosis.case import Case
from assent.diagnosis.rule import NotChecked
from assent.statistics.small import SURE, Interval, wilson
from assent.types import PromptGroup

LEAST = 20
"""Prompts below which a share of them says nothing."""
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two different answers to one prompt, the better one first. `prompt` and `root` are keys of it."""

    prompt: str
    root: str
    better: str
    worse: str
    source: str
    annotator: str | None = None


class Rows:
    """A file of data. `against`: another one, such as the held-out rows."""

    def __init__(self, dataset: Dataset, *, against: Dataset | None = None) -> None:
        self.dataset, self.against = dataset, against

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def audit(self) -> TextAudit:
        return audit(self.dataset, self.against)

    @cached_property
    def pairs(self) -> Sequence[Pair]:
        """Every pair that the file orders; ties and identical answers are none."""
        return [pair for group in self.dataset for pair in _pairs_of(group)]

    @cached_property
    def answers(self) -> Sequence[tuple[str, str]]:
        """(prompt, answer) of each answer that training makes likelier: demonstrations, better ones, thumbs up."""
        return [(prompt_key(group.prompt), text) for group in self.dataset for text in _raised(group)]

    def need_pairs(self) -> Sequence[Pair]:
        """The pairs. Raises NotChecked where there are too few prompts with one."""
        prompts = len({pair.prompt for pair in self.pairs})
        if prompts < LEAST:
            raise NotChecked(f"too few prompts with two ordered answers: {prompts} of {LEAST}")
        return self.pairs


def _pairs_of(group: PromptGroup) -> Iterable[Pair]:
    seen = [texts.visible(completion) for completion in group.completions]
    prompt, root = prompt_key(group.prompt), conversation_root(group.prompt)
    annotator = None if group.preference is None else group.preference.annotator
    for better, worse, tied in ordered_pairs(group):
        if not tied and seen[better] != seen[worse]:
            yield Pair(prompt=prompt, root=root, better=seen[better], worse=seen[worse], source=group.source,
                       annotator=annotator)  # fmt: skip


def _raised(group: PromptGroup) -> Iterable[str]:
    judged = group.preference
    seen = [texts.visible(completion) for completion in group.completions]
    if judged is None:
        return seen
    if judged.thumbs is not None:
        return [text for text, thumb in zip(seen, judged.thumbs, strict=True) if thumb]
    if judged.ranking is not None:
        return [text for text, rank in zip(seen, judged.ranking, strict=True) if rank == min(judged.ranking)]
    if judged.scores is not None and len(seen) > 1:
        return [text for text, score in zip(seen, judged.scores, strict=True) if score == max(judged.scores)]
    return []


def words(text: str) -> list[str]:
    """Words and punctuation, without differences of case."""
    return WORD.findall(normalise(text))


def share(values: Iterable[tuple[str, float]], *, confidence: float = SURE) -> tuple[Interval, int]:
    """The mean of values in [0, 1], given as (prompt, value), and the number of prompts.

    The prompt is the unit: values of one prompt are not independent.
    """
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for prompt, value in values:
        by_prompt[prompt].append(value)
    total = sum(sum(found) / len(found) for found in by_prompt.values())
    return wilson(total, len(by_prompt), confidence=confidence), len(by_prompt)


def percent(interval: Interval) -> str:
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def place(source: str) -> str:
    """Where a row stands, without the folders."""
    return source.rsplit("/", 1)[-1]


def data_of(case: Case) -> Rows:
    assert isinstance(case.data, Rows)
    return case.data


def rows_example(rows: Iterable[Mapping[str, Any]], *, against: Iterable[Mapping[str, Any]] | None = None) -> Case:
    """A case of data written down by hand, for a rule's FIRES and QUIET."""
    second = None if against is None else groups_of_rows(against)
    return Case(data=Rows(groups_of_rows(rows), against=second), source="data")


TOPICS = ("tea", "rain", "iron", "maps", "bread", "wind", "glass", "salt", "wool", "clay", "moss", "sand")


def sample_pair(number: int, better: str = "", worse: str = "") -> dict[str, Any]:
    """A healthy comparison, one for each number: the better answer is the longer one half of the time."""
    topic, other = TOPICS[number % 12], TOPICS[(number * 5 + 1) % 12]
    long = f"It depends on the {topic}. Keep it away from {other}, and look at it again on day {number}."
    short = f"Case {number}: I would ask somebody who knows about {topic}."
    first, second = (long, short) if number % 2 else (short, long)
    return {"prompt": f"Question {number}: what do I do with {topic} and {other}?", "chosen": better or first,
            "rejected": worse or second}  # fmt: skip


def sample_pairs(count: int) -> list[dict[str, Any]]:
    return [sample_pair(number) for number in range(count)]
