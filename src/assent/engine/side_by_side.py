"""Two models at work at once on a CPU whose cores one small model does not fill.

Between its products a small model waits for Python and for operations that one core does. Each with its share of the
cores, policy and critic of 1 M parameters are done in four fifths of the time that they take one after the other, and
those of 8.4 M hardly sooner, at the memory of both models' activations at once (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from itertools import takewhile
from threading import Event, Thread
from typing import TypeVar

import torch
from torch import nn

from assent.engine.runtime import Runtime

MOST_PARAMETERS = 2**22
"""Of a model that shares the cores."""

Result = TypeVar("Result")


def side_by_side(
    runtime: Runtime, modules: Sequence[nn.Module], work: Sequence[Iterable[Result]]
) -> list[list[Result]]:
    """What each of `work` gives, bit by bit; it reads and changes nothing but its own of `modules`.

    At once where that serves, else in order. Which of the two, and with how many threads, follows from the models and
    the machine alone, so a resumed run computes as the killed one did. Where one fails, or a second Ctrl-C comes, the
    others end after the bit at hand; then the first exception in the order of `work` is raised.
    """
    threads = torch.get_num_threads()
    if not _serves(runtime, modules, threads):
        return [[*one] for one in work]
    share, given_up = threads // len(work), Event()
    found: list[Future[list[Result]]] = [Future() for _ in work]

    def alone(one: Iterable[Result], future: Future[list[Result]]) -> None:
        torch.set_num_threads(share)  # of this thread, and of those that begin later
        try:
            future.set_result([*takewhile(lambda _: not given_up.is_set(), one)])
        except BaseException as error:
            given_up.set()
            future.set_exception(error)

    workers: list[Thread] = []
    try:
        for each in zip(work[1:], found[1:], strict=True):
            # Not an executor's: that takes no work once the program's main thread has ended.
            worker = Thread(target=alone, args=each)
            worker.start()
            workers.append(worker)
        alone(work[0], found[0])  # here, for each thread keeps the memory that it frees (models/host_memory.py)
        for worker in workers:
            worker.join()
    finally:
        given_up.set()
        for worker in workers:
            worker.join()
        torch.set_num_threads(threads)
    return [future.result() for future in found]


def _serves(runtime: Runtime, modules: Sequence[nn.Module], threads: int) -> bool:
    if runtime.num_processes > 1 or runtime.device.type != "cpu" or not 1 < len(modules) <= threads:
        return False
    weights = [{id(p): p.numel() for p in module.parameters()} for module in modules]
    apart = sum(map(len, weights)) == len(set().union(*weights))
    return apart and all(sum(sizes.values()) <= MOST_PARAMETERS for sizes in weights)
