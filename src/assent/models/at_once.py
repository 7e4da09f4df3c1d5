"""Works at several things at the same time, on a CPU whose cores one of them does not keep busy.

Between its products a model waits for operations that use one core, and after each product for the last of its threads.
Threads of the program that each get their share of the cores do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import takewhile
from threading import Event, Thread
from typing import TypeVar

import torch

MOST_WORKERS = 4
"""More passes at once hold more activations."""

Result = TypeVar("Result")


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


def dealt(sizes: Sequence[float], hands: int) -> list[list[int]]:
    """Indices of `sizes` in `hands` of similar sums: the largest first, each to the hand that has least."""
    held: list[list[int]] = [[] for _ in range(min(hands, len(sizes)))]
    sums = [0.0] * len(held)
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = sums.index(min(sums))
        held[least].append(index)
        sums[least] += sizes[index]
    return held


def each_at_once(work: Callable[[int, int], Result], sizes: Sequence[float], hands: int) -> list[Result]:
    """`work(hand, index)` for each index of `sizes`, in order of index. The indices are dealt to `hands`, which work at
    the same time."""

    def results(hand: int, own: Sequence[int]) -> Iterator[tuple[int, Result]]:
        for index in own:
            yield index, work(hand, index)

    found = at_once([results(*each) for each in enumerate(dealt(sizes, hands))])
    return [result for _, result in sorted((pair for own in found for pair in own), key=lambda pair: pair[0])]
