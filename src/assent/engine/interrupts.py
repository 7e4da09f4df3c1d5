"""Ctrl-C and SIGTERM end a run in good order: after the step at hand, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from assent.engine.runtime import Runtime


class Interruption:
    """True once a signal has come: `if interruption: write a checkpoint and raise KeyboardInterrupt`."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def anywhere(self, runtime: Runtime) -> bool:
        """Whether a signal has come to any process: a checkpoint needs them all. All processes must call it."""
        return bool(runtime.max(torch.tensor(float(bool(self)))))


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turns the first SIGINT or SIGTERM into a flag; the second one raises KeyboardInterrupt at once.

    Outside the main thread, where Python delivers no signals, the flag stays False and handlers as they are.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interruption.signal is not None:
            raise KeyboardInterrupt
        interruption.signal = signal.Signals(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
