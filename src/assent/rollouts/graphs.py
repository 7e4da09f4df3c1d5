"""A step of decoding as one CUDA graph.

A token's step is some twenty kernels for each layer, which take a GPU less time than the host to start them. Recorded
once, they are all started together. What is replayed does the same to the same memory: shapes stay, what changes from
step to step (ages, positions, the newest ids) stands in tensors, and own tokens that a row does not have yet are
masked, up to the next multiple of `SPAN`.

A graph lives as long as the rows in flight do not change, within one call of `sample`: weights that are trained, moved
or cast anew between two calls are never read through an old one.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """By CUDA, on the current device. The function must not make the host wait, nor read what the host knows."""

    def __init__(self, function: Callable[[], Tensor]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        # Not `torch.cuda.graph`: it gives all cached memory back to the device first, each time.
        with torch.cuda.stream(side):
            self.graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.out = function()
            finally:
                self.graph.capture_end()
        current.wait_stream(side)

    def replay(self) -> Tensor:
        self.graph.replay()
        return self.out
