"""Works at several things at the same time, on a CPU whose cores one of them does not keep busy.

Between its products a model waits for operations that use one core, and for the last of a product's threads. Threads of
the program that each get their share of the cores do not wait for each other.
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
"""The largest models that share the cores. If policy and critic have 1 M parameters, both take four fifths of the time
that they take one after the other; with 8.4 M they hardly gain. Memory holds the activations of both."""

Result = TypeVar("Result")


def side_by_side(
    runtime: Runtime, modules: Sequence[nn.Module], work: Sequence[Iterable[Result]]
) -> list[list[Result]]:
    """The results of each iterable of `work`. Each one reads and changes only its own one of `modules`.

    They run at the same time where that helps, otherwise in order. The choice, and the number of threads, depend only
    on the models and the machine, so a resumed run computes as the killed one did.
    """
    if not _serves(runtime, modules, torch.get_num_threads()):
        return [[*one] for one in work]
    return at_once(work)


def at_once(work: Sequence[Iterable[Result]]) -> list[list[Result]]:
    """The results of each iterable of `work`, each taken in a thread of the program with its share of torch's threads.

    If one fails, or a second Ctrl-C comes, the others stop after their current result. Then the first exception in the
    order of `work` is raised.
    """
    threads = torch.get_num_threads()
    share, given_up = threads // len(work), Event()
    found: list[Future[list[Result]]] = [Future() for _ in work]
    with_gradient = torch.is_grad_enabled()  # each thread has its own

    def alone(one: Iterable[Result], future: Future[list[Result]]) -> None:
        torch.set_num_threads(share)  # for this thread, and those that begin later
        try:
            with torch.set_grad_enabled(with_gradient):
                future.set_result([*takewhile(lambda _: not given_up.is_set(), one)])
        except BaseException as error:
            given_up.set()
            future.set_exception(error)

    workers: list[Thread] = []
    try:
        for each in zip(work[1:], found[1:], strict=True):
            # No executor: it takes no work once the program's main thread has ended.
            worker = Thread(target=alone, args=each)
            worker.start()
            workers.append(worker)
        alone(work[0], found[0])  # here: each thread keeps the memory that it frees (models/host_memory.py)
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
