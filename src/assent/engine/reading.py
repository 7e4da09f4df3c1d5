"""Reading without gradients: groups in, numbers out in their order, however they were cut and on whichever process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from assent.engine.micro_batches import Budget, free_memory, is_out_of_memory, share
from assent.engine.runtime import Runtime
from assent.errors import OutOfMemoryError
from assent.models.batch import Outputs, TokenGroup
from assent.models.packing import pack

PER_COMPLETION = ("last_values", "scores")
"""Outputs with one number for each completion; the others have one for each counted token."""


def read_groups(
    module: nn.Module, groups: Sequence[TokenGroup], *, want: frozenset[str], runtime: Runtime, budget: Budget
) -> Outputs:
    """What `module` gives for `groups`, in their order, float32 on the CPU; the same on every process.

    Halves the budget and begins again when memory runs out; OutOfMemoryError at the smallest micro-batch.
    """
    if not groups:
        return Outputs(**{name: torch.zeros(0) for name in want})
    while True:
        read, failure = _try(module, groups, want, runtime, budget)
        if float(runtime.max(torch.tensor(float(failure)))) == 0.0:
            break
        free_memory(runtime.device)
        budget.halve(groups)
    return Outputs(**{name: _in_order(read, groups, name, runtime) for name in want})


@torch.no_grad()
def _try(
    module: nn.Module, groups: Sequence[TokenGroup], want: frozenset[str], runtime: Runtime, budget: Budget
) -> tuple[list[tuple[list[int], Outputs]], bool]:
    """This process's micro-batches with what was read, and whether memory ran out."""
    results: list[tuple[list[int], Outputs]] = []
    smallest = min(range(len(groups)), key=lambda i: groups[i].num_tokens)
    for indices in share(budget.bins(groups), rank=runtime.rank, num_processes=runtime.num_processes):
        if not indices and not runtime.is_sharded:
            continue
        batch = pack([groups[i] for i in indices or [smallest]], device=runtime.device)
        try:
            with runtime.autocast():
                outputs = module(batch, want)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if runtime.is_sharded:
                raise _sharded_out_of_memory(budget) from error
            return [], True
        if indices:
            results.append((indices, outputs))
    return results, False


def _in_order(
    results: Sequence[tuple[list[int], Outputs]], groups: Sequence[TokenGroup], name: str, runtime: Runtime
) -> Tensor:
    """One field of all groups, in their order. What other processes read is added to zeros."""
    sizes = [_size(group, name) for group in groups]
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    parts = [(indices, getattr(outputs, name).float().cpu()) for indices, outputs in results]
    width = max((part.shape[1] for _, part in parts if part.ndim == 2), default=0)
    if runtime.num_processes > 1:
        width = int(runtime.max(torch.tensor(width)))
    whole = torch.zeros((starts[-1], width) if width else (starts[-1],))
    for indices, part in parts:
        for i, piece in zip(indices, part.split([sizes[i] for i in indices]), strict=True):
            whole[starts[i] : starts[i + 1]] = piece
    return runtime.sum(whole)


def _size(group: TokenGroup, name: str) -> int:
    return len(group.completions) if name in PER_COMPLETION else sum(c.num_counted for c in group.completions)


def _sharded_out_of_memory(budget: Budget) -> OutOfMemoryError:
    """Sharded passes are collective: a process that falls out of one cannot be waited for, so nothing is retried."""
    return OutOfMemoryError(
        "memory ran out in a sharded pass, which cannot be repeated",
        got=f"micro-batches of {budget.tokens} tokens",
        fix=f"--micro-batch-tokens {max(1, budget.tokens // 2)}; the last checkpoint stands",
    )
