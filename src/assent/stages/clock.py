"""Where the time of a round goes."""

from __future__ import annotations

import time


class Clock:
    """Laps of one round: each is the time since the one before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """What happened since the last lap was `phase`: generate, score, check or train."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def metrics(self, *, tokens: int) -> dict[str, float]:
        """Each phase's share of the round, and the rate at which `tokens` were sampled."""
        total = sum(self.seconds.values())
        shares = {f"time/{phase}": seconds / total for phase, seconds in self.seconds.items()}
        return {**shares, "rollout/tokens_per_second": tokens / self.seconds["generate"]}
