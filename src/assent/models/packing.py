"""Groups of token ids into one packed row, and groups into micro-batches by a token budget.

Legend: G groups, S completions, N counted completion tokens, T tokens of the row, C tokens of all completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch

from assent.errors import DataError
from assent.models.batch import GroupBatch, TokenGroup


def pack(groups: Sequence[TokenGroup], *, device: torch.device | str) -> GroupBatch:
    """One row `[prompt | completion 1 | … | completion K]` for each group, all groups concatenated, no padding.

    Each completion's positions continue its prompt's. Token fields keep only counted tokens (mask True). Without groups
    the row is one token that nothing reads, so that a process without data can take part in a step.
    Raises DataError if a prompt or completion is empty, a mask or field has another length, or a group lacks a field.
    """
    for group in groups:
        _check(group, fields=groups[0])
    completions = [c for g in groups for c in g.completions]
    pieces = [ids for g in groups for ids in (g.prompt_ids, *(c.ids for c in g.completions))] or [(0,)]
    length = np.fromiter(map(len, pieces), np.int64, len(pieces))
    start = np.cumsum(length) - length
    total = int(length.sum())
    ids = np.fromiter(chain.from_iterable(pieces), np.int64, total)

    num_completions = np.fromiter((len(g.completions) for g in groups), np.int64, len(groups))
    prompt_piece = np.arange(len(groups)) + np.cumsum(num_completions) - num_completions
    is_completion = np.ones(len(pieces), bool)
    is_completion[prompt_piece] = False
    is_completion &= bool(groups)
    group_of = np.repeat(np.arange(len(groups)), num_completions)  # (S,)
    prompt_length, prompt_start = length[prompt_piece], start[prompt_piece]  # (G,)
    first, size = start[is_completion], length[is_completion]  # (S,)

    continues_at = np.zeros(len(pieces), np.int64)
    continues_at[is_completion] = prompt_length[group_of]
    positions = np.arange(total) + np.repeat(continues_at - start, length)

    sequence = np.repeat(np.arange(len(completions)), size)  # (C,)
    row = np.arange(len(sequence)) + np.repeat(first - (np.cumsum(size) - size), size)  # (C,)
    prompt_end = (prompt_start + prompt_length)[group_of]  # (S,)
    # The one place where a token is matched with the position that predicts it: a completion's first token is
    # predicted by the prompt's last position, every other by the one before it.
    read_at = np.where(row == np.repeat(first, size), np.repeat(prompt_end, size), row) - 1
    counted = np.fromiter(chain.from_iterable(c.mask or (True,) * len(c.ids) for c in completions), bool, len(sequence))

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def stack(arrays: Sequence[object]) -> np.ndarray:
        return np.concatenate([np.asarray(a, np.float32).reshape(-1) for a in arrays] or [np.zeros(0, np.float32)])

    fields = groups[0] if groups else TokenGroup((), ())
    return GroupBatch(
        input_ids=tensor(ids),
        position_ids=tensor(positions),
        prompts=tuple(zip(prompt_start.tolist(), (prompt_start + prompt_length).tolist(), strict=True)),
        completions=tuple(zip(first.tolist(), (first + size).tolist(), strict=True)),
        group=tensor(group_of),
        sequence=tensor(sequence[counted]),
        read_at=tensor(read_at[counted]),
        targets=tensor(ids[row[counted]]),
        last_at=tensor(first + size - 1),
        token={name: tensor(stack([a for g in groups for a in g.token[name]])[counted]) for name in fields.token},
        completion={name: tensor(stack([g.completion[name] for g in groups])) for name in fields.completion},
        value={name: tensor(stack([g.value[name] for g in groups])) for name in fields.value},
        sources=tuple(g.source for g in groups),
        aside=tuple(c.aside for c in completions),
    )


def _check(group: TokenGroup, *, fields: TokenGroup) -> None:
    """Raises DataError, which names the row, if `group` cannot be packed beside the group `fields`."""

    def refuse(what: str, **details: object) -> None:
        raise DataError(f"{group.source or 'a group'}: {what}", **details)  # type: ignore[arg-type]

    if not group.prompt_ids:
        refuse("the prompt has no tokens", expected="at least one, from which the first completion token is predicted")
    sizes = [len(c.ids) for c in group.completions]
    if 0 in sizes:
        refuse("a completion has no tokens", got=f"lengths {sizes}")
    for completion in group.completions:
        if completion.mask is not None and len(completion.mask) != len(completion.ids):
            refuse("a mask has another length", got=len(completion.mask), expected=len(completion.ids))
    for kind in ("token", "completion", "value"):
        names, expected = sorted(getattr(group, kind)), sorted(getattr(fields, kind))
        if names != expected:
            refuse(f"{kind} fields differ from {fields.source or 'the first group'}'s", got=names, expected=expected)
    for name, arrays in group.token.items():
        if [len(a) for a in arrays] != sizes:
            refuse(f"token field {name!r} has other lengths", got=[len(a) for a in arrays], expected=sizes)
    for name, array in group.completion.items():
        if len(array) != len(sizes):
            refuse(f"completion field {name!r} has another length", got=len(array), expected=len(sizes))
