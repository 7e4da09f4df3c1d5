"""Finds stop strings token by token on the device, without decoding the text.

Each string has an automaton (Knuth, Morris, Pratt 1977). Its state is the number of the string's first characters with
which the text now ends. A table holds each token's effect on each state, so a step is one lookup.

Legend: S rows, V vocabulary, W strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from assent.errors import ConfigError


class StopStrings:
    """The automata: `tables` (states of all strings, V); `start`, `found` (W,) each string's first and last state."""

    def __init__(self, strings: Sequence[str], tokenizer: Any, *, vocabulary: int, device: torch.device) -> None:
        for string in strings:
            if not string or not string.isascii():  # several tokens may share one character's bytes beyond ASCII
                raise ConfigError("a stop string must consist of ASCII characters", got=repr(string))
        texts = token_texts(tokenizer, vocabulary) if strings else []
        rows: list[list[int]] = []
        start: list[int] = []
        found: list[int] = []
        for string in strings:
            start.append(len(rows))
            rows += [[start[-1] + state for state in after] for after in _table(string, texts)]
            found.append(len(rows) - 1)
        self.tables = torch.tensor(rows, dtype=torch.long, device=device).view(-1, vocabulary)
        self.start = torch.tensor(start, dtype=torch.long, device=device)
        self.found = torch.tensor(found, dtype=torch.long, device=device)

    def step(self, states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """states (S, W), ids (S,) -> states (S, W) and whether a string has been seen (S,)."""
        states = self.tables[states, ids[:, None]]
        return states, (states == self.found).any(-1)


def token_texts(tokenizer: Any, vocabulary: int) -> list[str]:
    """The text that each token adds, which is empty for special tokens. It is decoded after another token, because
    tokenizers drop spaces at the start of a text."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    alone = tokenizer.batch_decode([[i] for i in range(vocabulary)], **options)
    anchor = next(i for i, text in enumerate(alone) if text.strip() and text.isascii())
    both = tokenizer.batch_decode([[anchor, i] for i in range(vocabulary)], **options)
    return [text.removeprefix(alone[anchor]) for text in both]


def _table(string: str, texts: Sequence[str]) -> list[list[int]]:
    """The state after each token's text, for each state before it. The last state is never left."""
    failure = [0] * (len(string) + 1)  # for each length of prefix, its longest proper border
    for length in range(2, len(string) + 1):
        failure[length] = _next(string, failure, failure[length - 1], string[length - 1])
    table = []
    for state in range(len(string)):
        after = []
        for text in texts:
            now = state
            for character in text:
                now = _next(string, failure, now, character)
                if now == len(string):
                    break
            after.append(now)
        table.append(after)
    return [*table, [len(string)] * len(texts)]


def _next(string: str, failure: Sequence[int], state: int, character: str) -> int:
    while state and string[state] != character:
        state = failure[state]
    return state + (string[state] == character)
