"""The prompts of `sample` and `best-of-n`: in memory where they are few, otherwise tokenized again when asked for."""

from __future__ import annotations

from array import array

from assent.config.completions import CompletionOptions
from assent.data.loading import Dataset
from assent.errors import DataError
from assent.models.templates import Template
from assent.models.token_report import TokenReport
from assent.models.tokenizing import tokenize_groups
from assent.stages.selecting import to_prompts
from assent.types import PromptGroup

BLOCK_ROWS = 2048
"""Rows tokenized at a time. Of more rows than this, eight bytes each are kept."""


class PromptRows:
    """Prompts that can be answered, counted from 0. Raises DataError if there is none.

    number   how many of the dataset's rows to use; 0: all
    lines    what to tell the user: prompts that were shortened or refused
    """

    def __init__(
        self, dataset: Dataset, template: Template, config: CompletionOptions, *, source: str, number: int
    ) -> None:
        self._dataset, self._template, self._config = dataset, template, config
        rows = min(number or len(dataset), len(dataset))
        report, self._kept = TokenReport(max_length=config.max_length), array("q")
        self._first: tuple[list[PromptGroup], list[tuple[int, ...]]] | None = None
        for start in range(0, rows, BLOCK_ROWS):
            places = range(start, min(start + BLOCK_ROWS, rows))
            groups, ids, kept, own = self._read(places)
            report.merge(own)
            self._kept.extend(places[i] for i in kept)
            if rows <= BLOCK_ROWS:
                self._first = groups, ids
        self.lines = [*dataset.lines(), *report.lines()]
        if not self._kept:
            got = "\n".join(self.lines)
            raise DataError(f"{source}: no usable prompt is left", got=got, expected="at least one prompt")

    def _read(
        self, places: range | array[int]
    ) -> tuple[list[PromptGroup], list[tuple[int, ...]], list[int], TokenReport]:
        groups, _ = to_prompts([self._dataset[place] for place in places])
        config = self._config
        tokenized = tokenize_groups(
            groups,
            tokenizer=self._template.tokenizer,
            template=self._template,
            max_length=config.max_length,
            max_new_tokens=config.max_new_tokens,
        )
        ids = [group.prompt_ids for group in tokenized.groups]
        return [groups[i] for i in tokenized.kept], ids, tokenized.kept, tokenized.report

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, first: int, last: int) -> tuple[list[PromptGroup], list[tuple[int, ...]]]:
        """The prompts from `first` to `last`, and their tokens."""
        if self._first is not None:
            groups, ids = self._first
            return groups[first:last], ids[first:last]
        groups, ids, _, _ = self._read(self._kept[first:last])
        return groups, ids

    def group(self, number: int) -> PromptGroup:
        """One prompt."""
        if self._first is not None:
            return self._first[0][number]
        [group], _ = to_prompts([self._dataset[self._kept[number]]])
        return group
