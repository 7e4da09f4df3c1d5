"""Which keys of messages a chat template leaves out (law 12): rendering with and without a key tells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from assent.data.unread import Census, in_rows, is_empty
from assent.errors import TemplateError
from assent.models.templates import Template
from assent.types import Message, PromptGroup

_ROWS_TRIED = 16
"""Rows of a key that are rendered before it counts as left out."""


class KeyCensus:
    """Finds, row by row, the keys of messages and of `chat_template_kwargs` that the template does not read."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self._tried: dict[str, int] = {}
        self._read: set[str] = set()
        self._unknown: Counter[str] = Counter()

    def add(self, group: PromptGroup) -> None:
        if self.template.source is None:
            return
        source = self.template.source
        unknown = [name for name in group.chat_template_kwargs if not _stands_in(source, name)]
        self._unknown.update(f"chat_template_kwargs.{name}" for name in unknown)
        if isinstance(group.prompt, str):
            return
        for completion in group.completions or ((),):
            turns = (*group.prompt, *(completion if not isinstance(completion, str) else ()))
            keys = {key for turn in turns for key, value in turn.extra.items() if not is_empty(value)}
            for key in keys - self._read:
                if self._tried.get(key, 0) < _ROWS_TRIED:
                    self._tried[key] = self._tried.get(key, 0) + 1
                    if _changes_text(turns, key, group, self.template):
                        self._read.add(key)

    def unread(self) -> list[str]:
        """Keys, not empty, of messages that change nothing in the rendered text of the first 16 rows that have them."""
        return sorted(self._tried.keys() - self._read)

    def line(self, census: Census) -> str | None:
        """The keys with the numbers of rows that `census`, of the same rows, counted; None if there are none."""
        keys = self.unread()
        counts = Counter({key: count for key, count in census.keys.items() if key in keys})
        counts.update(self._unknown)
        return f"not read by the chat template: {in_rows(counts)}" if counts else None


def unread_keys_line(groups: Sequence[PromptGroup], template: Template) -> str | None:
    """`KeyCensus.line` of these rows."""
    keys = KeyCensus(template)
    for group in groups:
        keys.add(group)
    return keys.line(Census(groups))


def _stands_in(source: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", source) is not None


def _without(key: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The other keys; text that stands under two names (`reasoning_content`, `thinking`) goes with both."""
    gone = extra.get(key)
    return {k: v for k, v in extra.items() if k != key and not (isinstance(gone, str) and v == gone)}


def _changes_text(turns: tuple[Message, ...], key: str, group: PromptGroup, template: Template) -> bool:
    without = tuple(replace(turn, extra=_without(key, turn.extra)) for turn in turns)
    texts = []
    for messages in (turns, without):
        try:
            texts.append(template.render(messages, tools=group.tools, chat_template_kwargs=group.chat_template_kwargs))
        except TemplateError:
            return True  # it reads the key, or fails for a reason that its own error tells
    return texts[0] != texts[1]
