"""Options of a command that several processes run together."""

from __future__ import annotations

from typing import Literal

from assent.config.base import Options

Sharding = Literal["auto", "replicate", "shard"]
RewardProcesses = Literal["main", "each"]


class ProcessOptions(Options):
    """How several processes, started by torchrun, accelerate launch or srun, share one run (docs/scaling.md)."""

    sharding: Sharding = "auto"
    """What each of several processes holds. replicate: the whole model. shard: its part of weights, gradients and
    optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a process's memory. It changes
    memory and speed, never the result."""
