"""Gradients of embeddings on a CPU: only the rows that were read.

For each micro-batch torch makes a gradient of the whole table, nearly all zeros, and adds it to the sum so far. At a
vocabulary of 49k and a width of 576 it writes and reads 0.11 GB each time, and peak memory grows by as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from assent.engine.runtime import Runtime


@contextmanager
def by_rows(module: nn.Module, runtime: Runtime, *, into_grad: bool = True) -> Iterator[None]:
    """Inside, backward passes give only rows of the tables' gradients. With `into_grad` they are added to `.grad`,
    which begins as zeros; otherwise the caller adds them up.

    This holds for one process on a CPU and tables in float32. Several processes reduce gradients as they come, and in
    bfloat16 a sum of many rows would be rounded at each row.
    """
    tables = [table for table in module.modules() if isinstance(table, nn.Embedding) and _is_plain(table)]
    if runtime.num_processes > 1 or runtime.device.type != "cpu":
        tables = []
    hooks = [table.weight.register_hook(partial(_make_room, table.weight)) for table in tables if into_grad]
    for table in tables:
        table.sparse = True
    try:
        yield
    finally:
        for table in tables:
            table.sparse = False
        for hook in hooks:
            hook.remove()


def _make_room(weight: Tensor, grad: Tensor) -> None:
    """Before the first rows arrive, makes the zeros to which they and all later rows are added.

    A table that no gradient reaches (one for images, say) stays without a gradient: AdamW would decay its weights.
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
