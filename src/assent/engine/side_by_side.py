"""Two models at work at once on a CPU whose cores one small model does not fill.

Between its products a small model waits for Python and for operations that one core does: two cores update a model of
1 M parameters hardly more than 1.5 times as fast as one. Each with its share of the cores, policy and critic are done
sooner than one after the other (benchmarks/RESULTS.md). It costs the memory of both models' activations at once. Large
models fill the cores, and would pay that for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

from assent.engine.runtime import Runtime

MOST_PARAMETERS = 2**24
"""Of a model that shares the cores: at 8.4 M it gains, at 135 M it does not."""

Result = TypeVar("Result")


def side_by_side(
    runtime: Runtime, modules: Sequence[nn.Module], work: Sequence[Callable[[], Result]]
) -> tuple[Result, ...]:
    """What each of `work` gives, which reads and changes nothing but its own of `modules`.

    At once where that serves, else in order. Which of the two, and with how many threads, follows from the models and
    the machine alone, so a resumed run computes as the killed one did. The first exception in the order of `work` is
    raised, when all have ended.
    """
    threads = torch.get_num_threads()
    if not _serves(runtime, modules, threads):
        return tuple(one() for one in work)
    share = threads // len(work)

    def alone(one: Callable[[], Result]) -> Result:
        torch.set_num_threads(share)  # of this thread, and of those that begin later
        return one()

    # The first is done here: each thread keeps the memory that it frees (models/host_memory.py).
    try:
        with ThreadPoolExecutor(len(work) - 1) as pool:
            others = [pool.submit(alone, one) for one in work[1:]]
            first = alone(work[0])
    finally:
        torch.set_num_threads(threads)
    return first, *(other.result() for other in others)


def _serves(runtime: Runtime, modules: Sequence[nn.Module], threads: int) -> bool:
    if runtime.num_processes > 1 or runtime.device.type != "cpu" or not 1 < len(modules) <= threads:
        return False
    weights = [{id(p): p.numel() for p in module.parameters()} for module in modules]
    apart = sum(map(len, weights)) == len(set().union(*weights))
    return apart and all(sum(sizes.values()) <= MOST_PARAMETERS for sizes in weights)
