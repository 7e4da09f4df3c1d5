"""Keeps memory that a process on a CPU has freed, and gives it back when other work begins.

glibc soon returns the free end of its heap to the system, which then has to clear and map pages again for the tensors
of the next layer, step or token. That cost 7 and 17% of the rate of sampling and 3% of training's
(benchmarks/RESULTS.md). If the memory is kept, the same pages are used again, and the peak stays the same.
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
"""KEPT: the free bytes at the end of the heap above which glibc returns them (its own limit grows to 2²⁶ at most).
LARGEST: the size above which a block is mapped and returned by itself (glibc's own upper limit). A larger limit would
leave holes in the heap."""
ENVIRONMENT = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed(device: torch.device) -> None:
    """Makes this process keep the memory that it frees, if `device` is a CPU and the C library is glibc.

    It applies to the whole process and to later allocations. It does nothing if the environment has settings for
    glibc's allocator.
    """
    if device.type == "cpu" and sys.platform == "linux" and not any(name in os.environ for name in ENVIRONMENT):
        _keep_freed()


@cache
def _keep_freed() -> bool:
    """Whether the C library accepted the settings."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))


def give_back(device: torch.device) -> None:
    """Returns to the system what this process holds and does not use, if `device` is a CPU and the C library is glibc.

    Else the memory of a pipeline's earlier stage counts as held when the next one begins, which uses it again.
    """
    if device.type == "cpu" and sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
