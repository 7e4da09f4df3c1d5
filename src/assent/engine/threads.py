"""A run on a CPU keeps its number of threads: another number adds the same products up in another order (law 7)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from assent.runs.environment import cores
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog


@contextmanager
def kept_threads(folder: RunFolder, log: RunLog, device: torch.device) -> Iterator[None]:
    """Inside, torch has the number of threads that run.json names. A new run writes down the number it has now.

    A machine with fewer cores uses those that it has, and the log says so.
    """
    now = torch.get_num_threads()
    before = folder.manifest["facts"].get("threads")
    if device.type != "cpu" or now == before:
        yield
        return
    if before is None:
        folder.record(threads=now)
        yield
        return
    if before > cores():
        log.note(f"this run began with {before} threads, and here are {cores()} cores: its last bits may differ")
        yield
        return
    log.note(f"{before} of {cores()} cores, as this run began")
    torch.set_num_threads(before)
    try:
        yield
    finally:
        torch.set_num_threads(now)
