"""A step's groups as micro-batches that fit into memory, dealt to the processes; no result depends on it (law 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from assent.engine.runtime import Runtime
from assent.errors import OutOfMemoryError
from assent.models.batch import TokenGroup
from assent.models.packing import split_by_budget
from assent.models.shape import Cost, depth_and_width, tokens_per_pass

Item = TypeVar("Item")

_MESSAGES = ("DefaultCPUAllocator", "out of memory", "not enough memory", "can't allocate memory")


class Budget:
    """Tokens of one forward pass. `tokens` 0 chooses for the device; halved when memory runs out, for good."""

    def __init__(self, tokens: int, *, shared: bool, num_processes: int = 1) -> None:
        self.configured = self.tokens = tokens
        self.shared, self.num_processes = shared, num_processes

    @classmethod
    def of(cls, module: nn.Module, runtime: Runtime, tokens: int) -> Budget:
        return cls(
            tokens or default_tokens(module, runtime.device.type),
            shared=reads_prompts_once(module),
            num_processes=runtime.num_processes,
        )

    def bins(self, groups: Sequence[TokenGroup]) -> list[list[int]]:
        """Indices of `groups`, longest first: the same on every process, and enough that each has work."""
        tokens = self.tokens
        if self.num_processes > 1:
            whole = sum(g.num_tokens if self.shared else g.num_padded_tokens for g in groups)
            tokens = max(1, min(tokens, -(-whole // self.num_processes)))
        return split_by_budget(groups, max_tokens=tokens, shared=self.shared)

    def halve(self, groups: Sequence[TokenGroup]) -> None:
        """Makes micro-batches of these groups smaller. Raises OutOfMemoryError where each is a single group already."""
        bins = self.bins(groups)
        if max((len(indices) for indices in bins), default=1) == 1:
            largest = max(groups, key=lambda g: g.num_tokens)
            raise OutOfMemoryError(
                "memory does not hold a single group's forward and backward pass",
                got=f"{largest.num_tokens} tokens in {largest.source or 'the longest group'}",
                fix="lower --max-length, or use --gradient-checkpointing, --dtype bfloat16 or a smaller model",
            )
        while self.bins(groups) == bins:
            self.tokens = max(1, self.tokens // 2)

    def state(self) -> dict[str, int]:
        return {"configured": self.configured, "tokens": self.tokens}

    def restore(self, state: dict[str, int]) -> None:
        """A resumed run cuts its steps as before; one that was given another budget uses that."""
        if state["configured"] == self.configured:
            self.tokens = state["tokens"]


def default_tokens(module: nn.Module, device: str) -> int:
    """Tokens of one forward pass where the user leaves the choice."""
    return tokens_per_pass(*depth_and_width(getattr(module, "config", None)), device)


def share(batches: Sequence[Item], *, rank: int, num_processes: int) -> list[Item | None]:
    """This process's micro-batches: every num_processes-th, and None so that all have the same number."""
    rounds = -(-len(batches) // num_processes)
    mine: list[Item | None] = [*batches[rank::num_processes]]
    return mine + [None] * (rounds - len(mine))


def smallest(groups: Sequence[TokenGroup]) -> TokenGroup:
    """What a process without a micro-batch passes through a sharded model in the place of one."""
    return min(groups, key=lambda group: group.num_tokens)


def reads_prompts_once(module: nn.Module) -> bool:
    """Whether the module's forward pass shares a prompt among its completions (all tiers but the padded one)."""
    return getattr(module, "tier", "segments") != "padded"


def padding_fraction(module: nn.Module, groups: Sequence[TokenGroup], bins: Sequence[Sequence[int]]) -> float:
    """Share of the positions read in micro-batches `bins` that hold no token; packed rows have none."""
    tier = getattr(module, "tier", "segments")
    if tier == "segments":
        return 0.0
    tokens = read = 0
    for indices in bins:
        rows = [size for i in indices for size in _row_sizes(groups[i], shared=tier == "mask")]
        tokens, read = tokens + sum(rows), read + len(rows) * max(rows, default=0)
    return 1.0 - tokens / read if read else 0.0


def _row_sizes(group: TokenGroup, *, shared: bool) -> list[int]:
    """Tokens of the rows that a group becomes: one, or one for each completion."""
    return [group.num_tokens] if shared else [len(group.prompt_ids) + len(c.ids) for c in group.completions]


def cost_of(module: nn.Module) -> Cost:
    return Cost.of(module, shared=reads_prompts_once(module))


def is_out_of_memory(error: BaseException) -> bool:
    """The device's, the CPU allocator's, Python's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return not isinstance(error, OutOfMemoryError)
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def free_memory(device: torch.device) -> None:
    """Gives cached blocks back before a step is repeated in smaller parts."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def sharded_out_of_memory(budget: Budget) -> OutOfMemoryError:
    """Sharded passes are collective: a process that falls out of one cannot be waited for, so nothing is retried."""
    return OutOfMemoryError(
        "memory ran out in a sharded pass, which cannot be repeated",
        got=f"micro-batches of {budget.tokens} tokens",
        fix=f"--micro-batch-tokens {max(1, budget.tokens // 2)}; the last checkpoint stands",
    )
