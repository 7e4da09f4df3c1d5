"""What a process on a CPU does with memory that it has freed.

glibc soon gives the free end of its heap back to the system, and the tensors of the next layer, step or token are then
made of pages that the system has to clear and map again: 7 and 17% of sampling's rate, 3% of training's
(benchmarks/RESULTS.md). Kept, the same pages serve them; the peak is what it was.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt` (malloc.h)."""
KEPT, LARGEST = 2**30, 2**25
"""Bytes at the end of the heap from which on it is given back (glibc's own limit goes no higher than 2²⁶); and of a
block that is given back by itself, where glibc's own limit ends: larger ones would leave holes in the heap."""
ENVIRONMENT = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed(device: torch.device) -> None:
    """Lets this process keep what it frees, where `device` is a CPU and the C library is glibc.

    It holds for the whole process, and for what is allocated from then on. A user's own settings of glibc's allocator
    in the environment are left alone.
    """
    if device.type == "cpu" and sys.platform == "linux" and not any(name in os.environ for name in ENVIRONMENT):
        _keep_freed()


@cache
def _keep_freed() -> bool:
    """Whether the C library took it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # no glibc
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))
