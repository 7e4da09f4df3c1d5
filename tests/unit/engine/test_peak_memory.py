"""The peak of memory begins anew for each run in one process."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from assent.engine import peak_memory
from assent.engine.ledger import Ledger
from assent.engine.peak_memory import PeakMemory, held
from assent.models.host_memory import keep_freed

CPU = torch.device("cpu")
MIB = 2**20
PATIENCE_SECONDS = 60


def block(mebibytes: int) -> torch.Tensor:
    """Above the size that the C library keeps when it is freed (models/host_memory.py)."""
    return torch.ones(mebibytes * MIB // 4)


@pytest.fixture(params=["set back", "looked at"])
def clear(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where the system's peak can be set back, and where it cannot."""
    return peak_memory.CLEAR if request.param == "set back" else tmp_path / "nothing" / "clear_refs"


def alone(check: Callable[[], None], clear: Path) -> None:
    """Runs the check in a new process: the system may take back pages that this one has not used for long, in the
    middle of a measurement, and would lower what is measured."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_check, check, clear).result()


def seen(peak: PeakMemory, number: float) -> None:
    """Waits until the thread that looks, if there is one, has seen so many bytes."""
    until = time.monotonic() + PATIENCE_SECONDS
    while peak._looks and peak._highest < number and time.monotonic() < until:
        time.sleep(0.01)


def _check(check: Callable[[], None], clear: Path) -> None:
    peak_memory.CLEAR = clear
    check()


def two_runs() -> None:
    first = Ledger()
    large = block(256)
    assert first.peak_memory_bytes >= first.memory.before + 250 * MIB
    del large
    second = Ledger()
    small = block(64)
    above = second.peak_memory_bytes - second.memory.before
    assert 60 * MIB <= above <= 128 * MIB
    assert first.peak_memory_bytes >= first.memory.before + 250 * MIB  # it keeps what it has seen
    del small


def a_peak_that_is_over() -> None:
    peak = PeakMemory(CPU)
    large = block(128)
    seen(peak, peak.before + 120 * MIB)
    del large
    assert held(CPU) < peak.before + 64 * MIB
    assert 120 * MIB <= peak.bytes - peak.before <= 200 * MIB


def freed_by_an_earlier_run() -> None:
    """Tensors of 1 MiB, whose memory the C library keeps when they are freed."""
    keep_freed(CPU)
    empty = held(CPU)
    tensors = [block(1) for _ in range(256)]
    del tensors
    assert held(CPU) > empty + 200 * MIB
    assert PeakMemory(CPU).before < empty + 64 * MIB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not asked to keep memory")
def test_what_an_earlier_run_has_freed_is_not_held_when_the_next_begins(clear: Path) -> None:
    alone(freed_by_an_earlier_run, clear)


def test_the_second_of_two_runs_does_not_report_the_firsts_peak(clear: Path) -> None:
    alone(two_runs, clear)


def test_a_peak_that_is_over_counts(clear: Path) -> None:
    alone(a_peak_that_is_over, clear)


def test_a_resumed_run_keeps_the_earlier_peak() -> None:
    ledger = Ledger()
    ledger.restore({"counts": ledger.counts, "seconds": 1.0, "peak_memory_bytes": 1e15})
    assert ledger.peak_memory_bytes == 1e15
