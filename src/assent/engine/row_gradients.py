"""Gradients of embeddings by the rows that were read, on a CPU.

torch makes a gradient of the whole table for each micro-batch, nearly all of it zeros, and adds it to what is there: at
a vocabulary of 49k and a width of 576 that is 0.11 GB to write and to read again, each time, and as much at the peak.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from assent.engine.runtime import Runtime


@contextmanager
def by_rows(module: nn.Module, runtime: Runtime) -> Iterator[None]:
    """Inside, backward passes add to the tables' gradients, which begin as zeros, the rows alone.

    One process on a CPU, tables in float32: several processes reduce gradients as they come, and a sum of many rows in
    bfloat16 would be rounded at each.
    """
    tables = [table for table in module.modules() if isinstance(table, nn.Embedding) and _is_plain(table)]
    if runtime.num_processes > 1 or runtime.device.type != "cpu":
        tables = []
    hooks = [table.weight.register_hook(partial(_make_room, table.weight)) for table in tables]
    for table in tables:
        table.sparse = True
    try:
        yield
    finally:
        for table, hook in zip(tables, hooks, strict=True):
            table.sparse = False
            hook.remove()


def _make_room(weight: Tensor, grad: Tensor) -> None:
    """Before a first gradient of rows is taken over as it is: zeros that it and all others are added to.

    A table that no gradient reaches (of another modality, say) stays without one, for AdamW would decay its weights.
    """
    if grad.is_sparse and weight.grad is None:
        weight.grad = torch.zeros_like(weight)


def _is_plain(table: nn.Embedding) -> bool:
    return (
        table.weight.requires_grad
        and table.weight.dtype == torch.float32
        and table.max_norm is None
        and not table.scale_grad_by_freq
        and not table.sparse
    )
