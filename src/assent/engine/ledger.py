"""The cost of a run so far: labels, completions, reward calls, FLOPs, time, memory."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch

_COUNTS = ("labels", "completions_sampled", "reward_calls", "flops")


class Ledger:
    """Counts, which a resumed run continues. `models_resident`: models held in memory at once."""

    def __init__(self, device: torch.device | None = None, *, models_resident: int = 0) -> None:
        self.device = device or torch.device("cpu")
        self.counts = dict.fromkeys(_COUNTS, 0.0)
        self.models_resident = models_resident
        self._peak_before = 0.0
        self._seconds_before = 0.0
        self._started = time.monotonic()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def add(self, **counts: float) -> None:
        """Adds to the counts so far: `labels`, `completions_sampled`, `reward_calls`, `flops`."""
        for name, count in counts.items():
            self.counts[name] += count  # a KeyError names a count that the ledger does not keep

    def seen_elsewhere(self, peak_memory_bytes: float) -> None:
        """The peak of another process that did part of the work: the highest of all is kept."""
        self._peak_before = max(self._peak_before, peak_memory_bytes)

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    @property
    def peak_memory_bytes(self) -> float:
        return max(self._peak_before, peak_memory_bytes(self.device))

    def metrics(self) -> dict[str, float]:
        """All of `cost/*`."""
        return {f"cost/{name}": count for name, count in self.counts.items()} | {
            "cost/seconds": self.seconds,
            "cost/peak_memory_bytes": self.peak_memory_bytes,
            "cost/models_resident": float(self.models_resident),
        }

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return {"counts": dict(self.counts), "seconds": self.seconds, "peak_memory_bytes": self.peak_memory_bytes}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint's state."""
        self.counts = dict(state["counts"])
        self._seconds_before, self._peak_before = state["seconds"], state["peak_memory_bytes"]
        self._started = time.monotonic()


def peak_memory_bytes(device: torch.device) -> float:
    """The largest memory so far: allocated on a CUDA device; on others the process's resident set."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)  # macOS counts bytes, Linux KiB
