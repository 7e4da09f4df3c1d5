"""The peak of memory begins anew for each run in one process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from assent.engine import peak_memory
from assent.engine.ledger import Ledger
from assent.engine.peak_memory import PeakMemory, held

CPU = torch.device("cpu")
MIB = 2**20


def block(mebibytes: int) -> torch.Tensor:
    """Above the size that the C library keeps when it is freed (models/host_memory.py)."""
    return torch.ones(mebibytes * MIB // 4)


@pytest.fixture(params=["set back", "looked at"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Where the system's peak can be set back, and where it cannot."""
    if request.param == "looked at":
        monkeypatch.setattr(peak_memory, "CLEAR", tmp_path / "nothing" / "clear_refs")
    return request.param


def test_the_second_of_two_runs_does_not_report_the_firsts_peak(way: str) -> None:
    def above() -> float:
        first = Ledger()
        large = block(256)
        time.sleep(0.05)
        assert first.peak_memory_bytes >= first.memory.before + 250 * MIB
        del large
        second = Ledger()
        small = block(64)
        time.sleep(0.05)
        seen = second.peak_memory_bytes - second.memory.before
        assert first.peak_memory_bytes >= first.memory.before + 250 * MIB  # it keeps what it has seen
        del small
        return seen

    # A system that is short of memory may take back pages that this process has not used for long, in between.
    assert any(60 * MIB <= above() <= 128 * MIB for _ in range(3))


def test_a_peak_that_is_over_counts(way: str) -> None:
    peak = PeakMemory(CPU)
    large = block(128)
    time.sleep(0.05)
    del large
    assert held(CPU) < peak.before + 64 * MIB
    assert 120 * MIB <= peak.bytes - peak.before <= 200 * MIB


def test_a_resumed_run_keeps_the_earlier_peak() -> None:
    ledger = Ledger()
    ledger.restore({"counts": ledger.counts, "seconds": 1.0, "peak_memory_bytes": 1e15})
    assert ledger.peak_memory_bytes == 1e15
