"""A step of decoding as one CUDA graph.

A token's step is some twenty kernels for each layer, which take a GPU less time than the host to start them. Recorded
once, they are all started together. What is replayed does the same to the same memory: shapes stay, what changes from
step to step (ages, positions, the newest ids) stands in tensors, and own tokens that a row does not have yet are
masked, up to the next multiple of `SPAN`.

A graph lives as long as the rows in flight do not change, within one call of `sample`: weights that are trained, moved
or cast anew between two calls are never read through an old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

SPAN = 128
"""Own tokens by which attention's reach grows: at each multiple the step is recorded anew."""


class CapturedStep(Protocol):
    """A function of no arguments, recorded."""

    def replay(self) -> Tensor:
        """What the function would do now. The result stands until the next call."""


class OnDevice:
    """By CUDA, on `device`. The function must not make the host wait, nor read what the host knows."""

    def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:
        with torch.cuda.device(device):
            self.graph, (side, pool) = torch.cuda.CUDAGraph(), _place(torch.cuda.current_device())
            current = torch.cuda.current_stream()
            side.wait_stream(current)
            # Not `torch.cuda.graph`: it gives all cached memory back to the device first, each time.
            with torch.cuda.stream(side):
                self.graph.capture_begin(pool=pool.id, capture_error_mode="thread_local")  # type: ignore[arg-type]
                try:
                    self.out = function()
                finally:
                    self.graph.capture_end()
            current.wait_stream(side)

    def replay(self) -> Tensor:
        self.graph.replay()
        return self.out


@cache
def _place(device: int) -> tuple[torch.cuda.Stream, torch.cuda.MemPool]:
    """One stream and one pool of memory for all recordings, of which one runs at a time: a pool of its own would not be
    used again, and cuBLAS keeps a workspace for each stream that it has seen."""
    return torch.cuda.Stream(device), torch.cuda.MemPool()


def can_record(device: torch.device) -> bool:
    """On CUDA, from torch 2.13 on: before it, the allocator takes a recording that failed for one that goes on."""
    return device.type == "cuda" and torch.__version__ >= "2.13"  # compared as versions


@contextmanager
def without_waiting(device: torch.device) -> Iterator[None]:
    """RuntimeError where the host would wait for a GPU: told here, before a recording fails halfway."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
