"""Device, processes and arithmetic of a run. Accelerate finds them; torchrun starts several processes."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, Literal

import torch
from accelerate import PartialState
from torch import Tensor

from assent.config.launch import check_one_process, place, take_slurm
from assent.config.options import DeviceOptions
from assent.config.processes import ProcessOptions
from assent.engine.half_speed import check_half_speed
from assent.engine.together import COLLECTIVE_SECONDS, Together
from assent.errors import ConfigError
from assent.models import host_memory
from assent.models.products import linear
from assent.runs.progress import Progress, Silent

Sharding = Literal["replicate", "shard"]

_SIZE = {"cpu": 1024, "mps": 2048, "cuda": 8192}
"""Rows of the matrices whose product `matmul_rate` times."""
_REPEATS = 3


class Runtime:
    """Where the numbers are computed.

    device            "auto", "cpu", "cuda", "cuda:N", "mps"; with several processes each takes its own cuda device
    mixed_precision   "bf16": the forward pass runs under autocast; weights and optimiser keep their type
    sharding          for several processes: "replicate" (DistributedDataParallel) or "shard" (fully_shard, FSDP2)
    """

    def __init__(
        self,
        device: str = "auto",
        *,
        mixed_precision: str = "no",
        seed: int = 0,
        sharding: Sharding = "replicate",
    ) -> None:
        if mixed_precision not in ("no", "bf16"):
            raise ConfigError("unknown mixed precision", got=mixed_precision, expected="no or bf16")
        self.mixed_precision, self.seed, self.sharding = mixed_precision, seed, sharding
        chosen = _choose(device)
        self.progress: Progress = Silent()
        """Where long readings and samplings show how far they are."""
        self.together: Together | None = None
        """The processes of the run that goes on, if there are several."""
        if place().number > 1:
            take_slurm()
            # `cpu` is explicit: without it and without an accelerator, Accelerate starts no process group.
            state = PartialState(cpu=chosen.type == "cpu", timeout=timedelta(seconds=COLLECTIVE_SECONDS))
            self.num_processes, self.rank = state.num_processes, state.process_index
            self.device = state.device
        else:
            self.num_processes, self.rank = 1, 0
            self.device = chosen
        if self.num_processes == 1:
            host_memory.keep_freed(self.device)
        torch.manual_seed(seed)  # ours never draws from it; libraries that do start from a known state

    @classmethod
    def of(cls, options: DeviceOptions) -> Runtime:
        """What a command's options ask for. Raises ConfigError if they ask for bfloat16 on a CPU that cannot, or to
        shard in one process, and UsageError if several processes run a command that is made for one.

        With sharding "auto" the runtime replicates: `engine/sharding.py` chooses, once the model's size is known.
        """
        if not isinstance(options, ProcessOptions):
            check_one_process("this command")
        elif options.sharding == "shard" and place().number == 1:
            raise ConfigError(
                "there is only one process, so there is nothing to shard",
                got="--sharding shard",
                fix="start it with torchrun (docs/scaling.md), or leave --sharding out",
            )
        runtime = cls(options.device, mixed_precision=options.mixed_precision, seed=getattr(options, "seed", 0))
        half = {"--dtype": options.dtype == "bfloat16", "--mixed-precision": options.mixed_precision == "bf16"}
        asked = " and ".join(flag for flag, is_half in half.items() if is_half)
        if asked and runtime.device.type == "cpu" and not options.allow_slow_dtype:
            check_half_speed(asked_by=asked)
        return runtime

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Around all that several processes do together: one's error ends all, and waits are bounded (`Together`)."""
        if self.num_processes == 1:
            yield
            return
        with Together(self.rank, self.num_processes) as self.together:
            try:
                yield
            finally:
                self.together = None

    def begins(self, what: str) -> None:
        """Says what this process does from now on, for the message of another one that waits for it in vain."""
        if self.together is not None:
            self.together.begins(what)

    @property
    def is_sharded(self) -> bool:
        return self.num_processes > 1 and self.sharding == "shard"

    def autocast(self) -> AbstractContextManager[object]:
        if self.mixed_precision == "no":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def matmul_rate(self, weights: torch.dtype) -> float:
        """FLOPs per second of matrix products, all processes together, in the forward pass' arithmetic."""
        dtype = weights if self.mixed_precision == "no" else torch.bfloat16
        return self.num_processes * matmul_rate(str(self.device), dtype)

    def sum(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over the processes."""
        return self._reduce(tensor, torch.distributed.ReduceOp.SUM) if self.num_processes > 1 else tensor

    def max(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over the processes."""
        return self._reduce(tensor, torch.distributed.ReduceOp.MAX) if self.num_processes > 1 else tensor

    def from_main(self, value: Any) -> Any:
        """The main process's `value`, on every process. It must be JSON: numbers, text, lists and mappings."""
        if self.num_processes == 1:
            return value
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        size = int(self.max(torch.tensor(len(content) if self.is_main else 0)))
        received = torch.zeros(size, dtype=torch.uint8, device=self.device)
        if self.is_main:
            received.copy_(content)
        torch.distributed.broadcast(received, src=0)
        return json.loads(received.cpu().numpy().tobytes())

    def from_each(self, value: Any) -> list[Any]:
        """Each process's `value`, in the order of their ranks, on every process. They must be JSON."""
        if self.num_processes == 1:
            return [value]
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.num_processes, dtype=torch.long)
        sizes[self.rank] = len(content)
        sizes = self.sum(sizes)
        own = torch.zeros(int(sizes.max()), dtype=torch.uint8, device=self.device)
        own[: len(content)] = content.to(self.device)
        received = [torch.zeros_like(own) for _ in range(self.num_processes)]
        torch.distributed.all_gather(received, own)
        parts = zip(received, sizes.tolist(), strict=True)
        return [json.loads(part[:size].cpu().numpy().tobytes()) for part, size in parts]

    def meet(self, what: str) -> None:
        """Waits for all processes, however long the work `what` takes them, as long as they live."""
        if self.num_processes == 1:
            return
        if self.together is not None:
            self.together.meet(what)
        else:
            torch.distributed.barrier()

    def _reduce(self, tensor: Tensor, operation: torch.distributed.ReduceOp.RedOpType) -> Tensor:
        reduced = tensor.detach().to(self.device, copy=True)
        torch.distributed.all_reduce(reduced, op=operation)
        return reduced.to(tensor.device)


@cache
def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOPs per second of a square matrix product: the best of a few, measured once in each process.

    device   as in torch.device; a CPU uses the threads that torch has now
    """
    size = _SIZE.get(torch.device(device).type, _SIZE["cpu"])
    left = torch.ones(size, size, device=device, dtype=dtype)
    right = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    linear(left, right)  # the first product also sets the library up
    for _ in range(_REPEATS):
        _wait(device)
        started = time.perf_counter()
        linear(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _wait(device: str) -> None:
    kind = torch.device(device).type
    if kind != "cpu":
        getattr(torch, kind).synchronize()


def _choose(device: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError("unknown device", got=device, expected="auto, cpu, cuda, cuda:N or mps") from None
    there = available.get(chosen.type, False)
    if not there or (chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()):
        found = ", ".join(name for name, there in available.items() if there)
        raise ConfigError(f"no device {device} on this machine", expected=f"one of: {found}", fix="--device auto")
    return chosen
