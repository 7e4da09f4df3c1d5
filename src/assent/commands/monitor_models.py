"""What `assent monitor` measures with models: scores of rated rows, and the policy's log-probabilities of texts."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from assent.diagnosis.drift.encoding import hash_of
from assent.diagnosis.drift.served import Served
from assent.types import Message, PromptGroup, Text

if TYPE_CHECKING:
    from assent.config.monitor import MonitorConfig
    from assent.models.batch import TokenGroup
    from assent.models.templates import Template
    from assent.rewards.base import Reward

AT_ONCE = 64
"""Rows that are scored together."""
DIFFER_MOST = 10
"""One row of so many is left out where the server is compared: those that differ most. A text need not read back as the
tokens that were sampled, and then its log-probabilities are of other tokens."""


def load_scorer(config: MonitorConfig) -> Reward:
    """What --reward-model names. Raises ModelError or ConfigError."""
    from assent.engine.runtime import Runtime
    from assent.rewards.loading import load_reward

    assert config.reward_model is not None
    options: dict[str, Any] = {"device": Runtime.of(config).device, "dtype": config.dtype}
    return load_reward(config.reward_model, **options)


def scored(rows: Iterable[Served], reward: Reward) -> Iterator[Served]:
    """The rows in their order; those with a rating and without a score have one."""
    chunk: list[Served] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == AT_ONCE:
            yield from _scored(chunk, reward)
            chunk = []
    yield from _scored(chunk, reward)


def _scored(chunk: Sequence[Served], reward: Reward) -> list[Served]:
    places = [place for place, row in enumerate(chunk) if row.label is not None and row.score is None]
    found = list(chunk)
    if places:
        prompts = [_asked(chunk[place]) for place in places]
        scores = reward.score(prompts, [chunk[place].completion for place in places])
        for place, score in zip(places, scores, strict=True):
            found[place] = replace(chunk[place], score=score)
    return found


def _asked(row: Served) -> Text:
    return row.turns if row.turns is not None else row.prompt


class Kept:
    """Passes rows on and keeps some of those with log-probabilities: the ones whose content has the smallest hash."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: list[tuple[int, int, Served]] = []

    def through(self, rows: Iterable[Served]) -> Iterator[Served]:
        for place, row in enumerate(rows):
            if row.logprob is not None:
                key = -hash_of(row.prompt, row.completion)
                if len(self._kept) < self.most:
                    heapq.heappush(self._kept, (key, place, row))
                elif key > self._kept[0][0]:
                    heapq.heapreplace(self._kept, (key, place, row))
            yield row

    @property
    def rows(self) -> list[Served]:
        return [row for _, _, row in sorted(self._kept, key=lambda one: one[:2])]


def served_beside(rows: Sequence[Served], config: MonitorConfig) -> dict[str, float] | None:
    """The server's mean log-probability per token of some rows beside the policy's own; None without such rows.

    nats_per_token  mean absolute difference;  scale: nats served for each of the policy's (a temperature shows there);
                    both without the tenth of the rows that differ most
    """
    import torch

    from assent.engine.runtime import Runtime
    from assent.models.loading import load_policy, load_tokenizer
    from assent.models.module import AlignmentModel
    from assent.models.packing import pack
    from assent.models.templates import resolve_template

    if not rows:
        return None
    assert config.policy is not None
    device = Runtime.of(config).device
    tokenizer = load_tokenizer(config.policy)
    model: Any = load_policy(config.policy, dtype=config.dtype, tokenizer=tokenizer).to(device).eval()
    template = resolve_template(tokenizer, model=model)
    reader = AlignmentModel(model, kind="policy").eval()
    pairs: list[tuple[float, float]] = []
    for row, token_group in _tokenized(rows, tokenizer, template, config.max_length):
        with torch.no_grad():
            read = reader(pack([token_group], device=device), frozenset({"logprobs"}))
        values = read.logprobs.double().cpu().tolist()
        has_end = token_group.completions[0].ids[-1] in template.eos_ids and len(values) > 1
        if has_end and row.num_tokens == len(values) - 1:  # servers may leave the end out
            values = values[:-1]
        pairs.append((float(row.logprob or 0.0), sum(values) / len(values)))
    if not pairs:
        return None
    pairs = sorted(pairs, key=lambda pair: abs(pair[0] - pair[1]))[: len(pairs) - len(pairs) // DIFFER_MOST]
    squares = sum(own * own for _, own in pairs)
    return {
        "rows": float(len(pairs)),
        "nats_per_token": sum(abs(theirs - own) for theirs, own in pairs) / len(pairs),
        "scale": sum(theirs * own for theirs, own in pairs) / squares if squares else 1.0,
    }


def read_back(rows: Sequence[Served], folder: str, *, max_length: int) -> float | None:
    """Share of the rows whose text is as many tokens of the model's, its end included, as the log counts.

    None without rows that count them.
    """
    from assent.models.loading import load_tokenizer
    from assent.models.templates import resolve_template

    counted = [row for row in rows if row.num_tokens is not None]
    if not counted:
        return None
    tokenizer = load_tokenizer(folder)
    read = _tokenized(counted, tokenizer, resolve_template(tokenizer), max_length)
    return sum(row.num_tokens == len(group.completions[0].ids) for row, group in read) / len(counted)


def _tokenized(
    rows: Sequence[Served], tokenizer: Any, template: Template, max_length: int
) -> Iterator[tuple[Served, TokenGroup]]:
    from assent.models.tokenizing import tokenize_groups

    groups = [_group(row, has_template=template.source is not None, place=place) for place, row in enumerate(rows)]
    for group in tokenize_groups(groups, tokenizer=tokenizer, template=template, max_length=max_length).groups:
        yield rows[int(group.source or 0)], group


def _group(row: Served, *, has_template: bool, place: int) -> PromptGroup:
    if not has_template:
        return PromptGroup(prompt=row.prompt, completions=(row.completion,), source=str(place))
    turns = row.turns or (Message("user", row.prompt),)
    return PromptGroup(prompt=turns, completions=((Message("assistant", row.completion),),), source=str(place))
