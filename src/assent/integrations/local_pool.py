"""A pool of processes on this machine. Each opens its work once, and ends when this process does."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from assent.integrations.executor import Failed, Open, Outcome, guarded, reason_of


class LocalPool:
    """`size` processes, each with its work opened by `opened`. See `Pool`."""

    def __init__(self, opened: Open, *, size: int) -> None:
        self.size, self._open = size, opened
        self._context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of torch
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}

    def submit(self, worker: int, rows: Any) -> None:
        if worker not in self._workers:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=serve, args=(theirs, self._open, worker), daemon=True)
            process.start()
            theirs.close()
            self._workers[worker] = process, ours
        with contextlib.suppress(OSError):  # it died meanwhile: `wait` says so
            self._workers[worker][1].send(rows)

    def wait(self) -> tuple[int, Outcome]:
        found = wait([connection for _, connection in self._workers.values()])
        worker = next(number for number, (_, connection) in self._workers.items() if connection in found)
        process, connection = self._workers[worker]
        try:
            return worker, connection.recv()
        except (EOFError, OSError):
            process.join()
            connection.close()
            del self._workers[worker]
            return worker, Failed(_cause(process.exitcode), died=True)

    def close(self) -> None:
        for process, connection in self._workers.values():
            connection.close()
            process.terminate()
        for process, _ in self._workers.values():
            process.join()
        self._workers.clear()


def _cause(status: int | None) -> str:
    if status is not None and status < 0:
        return f"the worker was ended by {signal.Signals(-status).name}"
    return f"the worker ended with status {status}"


def serve(connection: Connection, opened: Open, worker: int) -> None:
    """The life of one worker: opens its work, then does what it is sent until nobody sends any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the pool closes its workers
    try:
        work = opened(worker)
    except Exception as error:  # whatever it is, the pool says it
        connection.send(Failed(reason_of(error), opening=True))
        return
    while True:
        try:
            rows = connection.recv()
        except EOFError:
            return
        connection.send(guarded(work, rows))
