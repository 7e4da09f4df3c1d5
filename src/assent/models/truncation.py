"""Shortens rows that are longer than `max_length`.

First the prompt loses its oldest turns, as many as the longest completion needs. System messages, the last user turn
and what follows it stay. A raw prompt loses tokens on its left, down to half of `max_length`. If it is to be answered,
it is refused instead, because an answer to the rest of a text does not answer the text. Then completions are cut at
their end: they lose their EOS and are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from assent.models.batch import TokenCompletion
from assent.models.cutting import RefusedRowError
from assent.types import Message, PromptGroup


@dataclass(frozen=True, slots=True)
class RowIds:
    """The ids of one prompt and its K completions."""

    prompt: tuple[int, ...]
    completions: tuple[TokenCompletion, ...]

    def longest(self) -> int:
        return max((len(c.ids) for c in self.completions), default=0)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A row that fits, and what it lost: turns and tokens of its prompt, completions cut, their tokens."""

    row: RowIds
    turns_lost: int = 0
    prompt_tokens_lost: int = 0
    completions_cut: int = 0
    completion_tokens_lost: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.prompt_tokens_lost or self.completions_cut)


def fit(
    row: RowIds,
    group: PromptGroup,
    *,
    max_length: int,
    room: int | None,
    start: Sequence[int],
    again: Callable[[PromptGroup], RowIds],
) -> Fitted:
    """Cuts one row to `max_length`. `room`: tokens kept free for sampling. `again` encodes it with a shorter prompt.

    Raises RefusedRowError if the last user turn alone, or a raw prompt for sampling, leaves no room.
    """
    wanted = row.longest() if room is None else room
    needed = "" if room is None else f" with {room} new tokens"
    if len(row.prompt) + wanted <= max_length:
        return Fitted(row)
    whole, turns_lost = row, 0
    if isinstance(group.prompt, str):
        if room is not None:
            raise RefusedRowError(f"the prompt does not fit max_length {max_length}{needed}")
        row = replace(row, prompt=_keep_right(row.prompt, max(max_length - wanted, max_length // 2, 1), start))
    else:
        for shorter in _shorter_prompts(group.prompt):
            row = again(replace(group, prompt=shorter))
            turns_lost = len(group.prompt) - len(shorter)
            if len(row.prompt) + wanted <= max_length:
                break
    free = max_length - len(row.prompt)
    if free < (room if room is not None else min(1, wanted)):
        raise RefusedRowError(f"the last user turn alone does not fit max_length {max_length}{needed}")
    completions = tuple(_cut(c, free) for c in row.completions)
    return Fitted(
        RowIds(row.prompt, completions),
        turns_lost=turns_lost,
        prompt_tokens_lost=len(whole.prompt) - len(row.prompt),
        completions_cut=sum(c.truncated for c in completions),
        completion_tokens_lost=sum(len(c.ids) for c in row.completions) - sum(len(c.ids) for c in completions),
    )


def _shorter_prompts(prompt: tuple[Message, ...]) -> Iterator[tuple[Message, ...]]:
    """Shorter and shorter prompts. The oldest turns go, so that a user turn comes first; system messages stay."""
    users = [i for i, m in enumerate(prompt) if m.role == "user"]
    for i in users[1:]:
        yield tuple(m for j, m in enumerate(prompt) if j >= i or m.role == "system")


def _keep_right(ids: tuple[int, ...], length: int, start: Sequence[int]) -> tuple[int, ...]:
    """At most the last `length` ids. The tokenizer's own start (BOS) stays in front."""
    if len(ids) <= length:
        return ids
    kept = tuple(start) if start and ids[: len(start)] == tuple(start) else ()
    body = length - len(kept)
    return kept + ids[len(ids) - body :] if body > 0 else ids[len(ids) - length :]


def _cut(completion: TokenCompletion, length: int) -> TokenCompletion:
    if len(completion.ids) <= length:
        return completion
    mask = None if completion.mask is None else completion.mask[:length]
    step_ends = tuple(end for end in completion.step_ends if end < length)
    return TokenCompletion(completion.ids[:length], mask, truncated=True, step_ends=step_ends)
