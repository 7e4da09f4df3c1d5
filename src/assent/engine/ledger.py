"""The cost of a run so far: labels, completions, reward calls, FLOPs, time, memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from assent.engine.peak_memory import PeakMemory

_COUNTS = ("labels", "completions_sampled", "reward_calls", "flops")


@dataclass(frozen=True, slots=True)
class Planned:
    """What the plan said before the run.

    memory_bytes   at the highest, above what the process held before
    seconds        from low to high; None: this machine is not calibrated
    moment         of the run in which the memory is expected to be highest
    """

    memory_bytes: float
    seconds: tuple[float, float] | None = None
    moment: str = ""


class Ledger:
    """Counts, which a resumed run continues. `models_resident`: models held in memory at once. `planned`: None if the
    plan has no answer."""

    def __init__(self, device: torch.device | None = None, *, models_resident: int = 0) -> None:
        self.device = device or torch.device("cpu")
        self.counts = dict.fromkeys(_COUNTS, 0.0)
        self.models_resident = models_resident
        self.memory = PeakMemory(self.device)
        self.planned: Planned | None = None
        self._peak_before = 0.0
        self._seconds_before = 0.0
        self._started = time.monotonic()

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
        return max(self._peak_before, self.memory.bytes)

    def metrics(self) -> dict[str, float]:
        """All of `cost/*`."""
        return {f"cost/{name}": count for name, count in self.counts.items()} | {
            "cost/seconds": self.seconds,
            "cost/peak_memory_bytes": self.peak_memory_bytes,
            "cost/models_resident": float(self.models_resident),
            **self._plan(),
        }

    def _plan(self) -> dict[str, float]:
        """As `cost/peak_memory_bytes` and `cost/seconds` are measured."""
        if self.planned is None:
            return {}
        found = {"cost/planned_memory_bytes": self.memory.before + self.planned.memory_bytes}
        if self.planned.seconds is not None:
            low, high = self.planned.seconds
            found |= {"cost/planned_seconds_low": low, "cost/planned_seconds_high": high}
        return found

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return {"counts": dict(self.counts), "seconds": self.seconds, "peak_memory_bytes": self.peak_memory_bytes}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint's state."""
        self.counts = dict(state["counts"])
        self._seconds_before, self._peak_before = state["seconds"], state["peak_memory_bytes"]
        self._started = time.monotonic()
