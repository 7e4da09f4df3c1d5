"""bfloat16 on a processor without instructions for it, hundreds of times slower than float32: measured and refused."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from assent.errors import ConfigError
from assent.models.products import linear

SIZE = 192
"""Rows of the matrices that are multiplied: under a millisecond where the processor can."""
MOST = 10.0
"""The largest slowdown that is taken without a word. Ordinary processors without these instructions have 1 to 4."""
_REPEATS, _ENOUGH_SECONDS = 4, 0.2


def check_half_speed(*, asked_by: str) -> None:
    """Raises ConfigError if products in bfloat16 are far slower on this CPU than in float32.

    asked_by   the option that asks for bfloat16, as a flag
    """
    slow = fast = 1.0
    for _ in range(2):  # twice, if need be: other work may have held up the first
        fast, slow = (product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16))
        if slow <= MOST * fast:
            return
    raise ConfigError(
        f"bfloat16 is {slow / fast:.0f} times as slow as float32 on this processor",
        got=f"a product of {SIZE} × {SIZE} matrices takes {1000 * slow:.3g} ms, in float32 {1000 * fast:.3g} ms",
        expected=f"at most {MOST:g} times, as with instructions for bfloat16 (AVX512-BF16, AMX, Arm BF16)",
        fix=f"leave {asked_by} out, or add --allow-slow-dtype to compute like this all the same",
    )


def product_seconds(dtype: torch.dtype, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a small matrix product on the CPU: the best of a few, in about 0.2 seconds."""
    left, right = (torch.ones(SIZE, SIZE, dtype=dtype) for _ in range(2))
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < _REPEATS and sum(taken) < _ENOUGH_SECONDS):  # the first sets the library up
        started = clock()
        linear(left, right)
        taken.append(clock() - started)
    return min(taken)
