"""The most memory that is held from some moment on.

The system's own figure, the resident set's peak of a process, never falls: the second stage of a pipeline would report
the first one's. On Linux it can be set back; elsewhere, or where that is forbidden, a thread looks at the resident set
from time to time. On CUDA it is what tensors take of the device.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from weakref import WeakSet, ref

import psutil
import torch

from assent.models.host_memory import give_back

SECONDS_BETWEEN = 0.01
"""Between two looks, where the system's peak cannot be set back. A peak that is shorter may be missed."""
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_SET_BACK = "5"
"""What sets the peak of the resident set back to what is held now (proc(5))."""
_HIGHEST = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class PeakMemory:
    """Bytes since it was made. Several at the same time do not disturb each other.

    before   bytes that were in use when it was made: what earlier work has freed is given back first
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        give_back(device)
        self.before = held(device)
        self._highest = 0.0
        is_set_back = _set_back(device)
        _LIVE.add(self)
        if not is_set_back:
            threading.Thread(target=_look, args=(ref(self),), daemon=True).start()
        self._looks = not is_set_back

    @property
    def bytes(self) -> float:
        self.note(held(self.device) if self._looks else _since_set_back(self.device))
        return self._highest

    def note(self, number: float) -> None:
        self._highest = max(self._highest, number)


_LIVE: WeakSet[PeakMemory] = WeakSet()


def held(device: torch.device) -> float:
    """Bytes now: allocated on a CUDA device; on others the process's resident set."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    return float(psutil.Process().memory_info().rss)


def _since_set_back(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    found = _HIGHEST.search(STATUS.read_text())
    return float(found.group(1)) * 1024 if found else 0.0


def _set_back(device: torch.device) -> bool:
    """Whether the system's peak begins again from here. Those who still measure keep what it was."""
    for other in _LIVE:
        if other.device == device:
            other.bytes  # noqa: B018 - it notes the peak so far
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR.write_text(_SET_BACK)
        return _HIGHEST.search(STATUS.read_text()) is not None
    except OSError:
        return False


def _look(peak: ref[PeakMemory]) -> None:
    while (one := peak()) is not None:
        one.note(held(one.device))
        del one
        time.sleep(SECONDS_BETWEEN)
