"""A step of decoding as one CUDA graph.

A step for one token is about twenty kernels in each layer, which the host needs longer to start than the GPU to run.
Recorded once, they are all started together. A replay does the same operations on the same memory. So shapes are fixed,
what changes from step to step (ages, positions, the newest ids) is in tensors, and own tokens that a row does not have
yet are masked, up to the next multiple of `SPAN`.

A graph is used until the rows in flight change, within one call of `sample`. So weights that are trained, moved or cast
between two calls are never read through an old graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

SPAN = 128
"""Attention's reach grows by this many own tokens. At each multiple the step is recorded again."""


class CapturedStep(Protocol):
    """A recorded function without arguments."""

    def replay(self) -> Tensor:
        """Does what the function would do now. The result is valid until the next call."""


class OnDevice:
    """A CUDA graph on `device`. The function must not make the host wait or depend on state of the host."""

    def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:
        with torch.cuda.device(device):
            self.graph, (side, pool) = torch.cuda.CUDAGraph(), _place(torch.cuda.current_device())
            current = torch.cuda.current_stream()
            side.wait_stream(current)
            # Not `torch.cuda.graph`: it first returns all cached memory to the device, each time.
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
    """One stream and one memory pool for all recordings, which run one at a time. A pool for each recording would not
    be reused, and cuBLAS keeps a workspace for each stream that it has seen."""
    return torch.cuda.Stream(device), torch.cuda.MemPool()


def can_record(device: torch.device) -> bool:
    """True on CUDA with torch 2.13 or later. The allocator of earlier versions never ends a recording that failed."""
    return device.type == "cuda" and torch.__version__ >= "2.13"  # compared as versions


@contextmanager
def without_waiting(device: torch.device) -> Iterator[None]:
    """Raises RuntimeError if the host would wait for the GPU inside the block, before a recording fails halfway."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
