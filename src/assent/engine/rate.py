"""How fast this device multiplies matrices: what a step's FLOP rate is measured against."""

from __future__ import annotations

import time
from functools import cache

import torch

from assent.models.products import linear

_SIZE = {"cpu": 1024, "mps": 2048, "cuda": 8192}
_REPEATS = 3


@cache
def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOPs per second of a square matrix product, the best of a few, measured once in each process.

    device   as in torch.device; on a CPU with the threads that torch has now
    """
    size = _SIZE.get(torch.device(device).type, _SIZE["cpu"])
    left = torch.ones(size, size, device=device, dtype=dtype)
    right = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    linear(left, right)  # the first product also sets the library up
    for _ in range(_REPEATS):
        _wait(device)
        started = time.perf_counter()
        linear(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _wait(device: str) -> None:
    kind = torch.device(device).type
    if kind != "cpu":
        getattr(torch, kind).synchronize()
