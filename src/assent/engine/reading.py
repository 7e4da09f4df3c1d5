"""Reading without gradients. The numbers come in the groups' order, however the groups were cut and dealt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from assent.engine.micro_batches import Budget, free_memory, is_out_of_memory, sharded_out_of_memory, share, smallest
from assent.engine.runtime import Runtime
from assent.engine.sharded_pass import guarded
from assent.models.at_once import each_at_once
from assent.models.batch import Outputs, TokenGroup
from assent.models.packing import pack

PER_COMPLETION = ("last_values", "scores")
"""Outputs with one number for each completion; the others have one for each counted token."""


def read_groups(
    module: nn.Module, groups: Sequence[TokenGroup], *, want: frozenset[str], runtime: Runtime, budget: Budget
) -> Outputs:
    """The outputs of `module` for `groups`, in their order, in float32 on the CPU. The same on every process.

    When memory runs out, it halves the budget and begins again. Raises OutOfMemoryError at the smallest micro-batch.
    """
    runtime.begins(f"reading {len(groups)} groups")
    if not groups:
        return Outputs(**{name: torch.zeros(0) for name in want})
    while True:
        hands = budget.hands(module, runtime)
        bins = budget.bins(groups, hands=hands)
        mine = sum(map(len, bins)) // runtime.num_processes
        with runtime.progress.task("reading", total=mine, brief=True) as task:
            read = read_bins(module, groups, bins, want=want, runtime=runtime, budget=budget, on_read=task.advance)
        if read is not None:
            return read
        free_memory(runtime.device)
        budget.halve(groups, hands=hands)


def read_bins(
    module: nn.Module,
    groups: Sequence[TokenGroup],
    bins: Sequence[Sequence[int]],
    *,
    want: frozenset[str],
    runtime: Runtime,
    budget: Budget,
    on_read: Callable[[int], None] | None = None,
) -> Outputs | None:
    """`read_groups` once, in the micro-batches `bins` of `budget`; None if memory ran out on some process.

    on_read   called with the number of groups of each micro-batch that was read, from several threads
    """
    results = outputs_of(module, groups, bins, want=want, runtime=runtime, budget=budget, on_read=on_read)
    if results is None:
        return None
    # Sorted: each output is a reduction, and a set's order differs between processes.
    return Outputs(**{name: _in_order(results, groups, name, runtime) for name in sorted(want)})


@torch.no_grad()
def outputs_of(
    module: nn.Module,
    groups: Sequence[TokenGroup],
    bins: Sequence[Sequence[int]],
    *,
    want: frozenset[str],
    runtime: Runtime,
    budget: Budget,
    on_read: Callable[[int], None] | None = None,
) -> list[tuple[Sequence[int], Outputs]] | None:
    """This process's micro-batches and their outputs; None if memory ran out on some process."""
    mine = share(bins, rank=runtime.rank, num_processes=runtime.num_processes)
    mine = [indices for indices in mine if indices is not None or runtime.is_sharded]
    chosen = [[smallest(groups)] if indices is None else [groups[i] for i in indices] for indices in mine]

    def read(hand: int, number: int) -> Outputs:
        with runtime.autocast():
            outputs: Outputs = module(pack(chosen[number], device=runtime.device), want)
        if on_read is not None:
            on_read(len(chosen[number]))
        return outputs

    outputs: list[Outputs] | None = None
    guard = None
    try:
        if (hands := budget.hands(module, runtime)) > 1 and len(mine) > 1:
            outputs = each_at_once(read, [sum(group.num_tokens for group in one) for one in chosen], hands)
        else:
            with guarded(module) as guard:
                outputs = [read(0, number) for number in range(len(chosen))]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if runtime.is_sharded:
            raise sharded_out_of_memory(budget) from error
    failed = outputs is None or (guard is not None and guard.failed)
    if float(runtime.max(torch.tensor(float(failed)))) or outputs is None:
        return None
    return [(indices, found) for indices, found in zip(mine, outputs, strict=True) if indices is not None]


def _in_order(
    results: Sequence[tuple[Sequence[int], Outputs]], groups: Sequence[TokenGroup], name: str, runtime: Runtime
) -> Tensor:
    """One output of all groups, in their order. Each process fills in its own, and zeros elsewhere; these are added."""
    sizes = [len(group.completions) if name in PER_COMPLETION else group.num_counted for group in groups]
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
