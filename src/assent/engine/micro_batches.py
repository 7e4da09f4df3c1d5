"""Cuts a step's groups into micro-batches that fit into memory, and deals them to the processes.

No result depends on the cut (law 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from assent.engine.passes import workers
from assent.engine.runtime import Runtime
from assent.errors import OutOfMemoryError
from assent.models.batch import TokenGroup
from assent.models.shape import Cost, depth_and_width, split_by_budget, tokens_per_pass

Item = TypeVar("Item")

_MESSAGES = ("DefaultCPUAllocator", "out of memory", "not enough memory", "can't allocate memory")


class Budget:
    """The most tokens of one forward pass, and how many passes run at the same time. When memory runs out, it becomes
    smaller for the rest of the run."""

    def __init__(self, tokens: int, *, shared: bool, num_processes: int = 1) -> None:
        self.configured = self.tokens = tokens
        self.shared, self.num_processes = shared, num_processes
        self.one_at_a_time = False

    @classmethod
    def of(cls, module: nn.Module, runtime: Runtime, tokens: int) -> Budget:
        """With 0 `tokens`, the budget follows from the device and the model."""
        return cls(
            tokens or default_tokens(module, runtime.device.type),
            shared=reads_prompts_once(module),
            num_processes=runtime.num_processes,
        )

    def hands(self, module: nn.Module, runtime: Runtime) -> int:
        """How many passes run at the same time."""
        return 1 if self.one_at_a_time else workers(module, runtime)

    def bins(self, groups: Sequence[TokenGroup], *, hands: int = 1) -> list[list[int]]:
        """Micro-batches as indices of `groups`, longest first. The same on every process, and work for each of them and
        for each of `hands`."""
        tokens, hands = self.tokens, max(self.num_processes, hands)
        if hands > 1:
            whole = sum(g.num_tokens if self.shared else g.num_padded_tokens for g in groups)
            tokens = max(1, min(tokens, -(-whole // hands)))
        return split_by_budget(groups, max_tokens=tokens, shared=self.shared)

    def halve(self, groups: Sequence[TokenGroup], *, hands: int = 1) -> None:
        """Makes micro-batches of these groups smaller, or, if each is a single group already, passes them one at a
        time. `hands`: as in `bins`. Raises OutOfMemoryError if that was the case too."""
        bins = self.bins(groups, hands=hands)
        if max((len(indices) for indices in bins), default=1) == 1:
            if hands > 1:
                self.one_at_a_time = True
                return
            largest = max(groups, key=lambda g: g.num_tokens)
            raise OutOfMemoryError(
                "one group's forward and backward pass does not fit into memory",
                got=f"{largest.num_tokens} tokens in {largest.source or 'the longest group'}",
                fix="lower --max-length, or use --gradient-checkpointing, --dtype bfloat16 or a smaller model",
            )
        while self.bins(groups, hands=hands) == bins:
            self.tokens = max(1, self.tokens // 2)

    def state(self) -> dict[str, int]:
        return {"configured": self.configured, "tokens": self.tokens, "one_at_a_time": self.one_at_a_time}

    def restore(self, state: dict[str, int]) -> None:
        """A resumed run cuts its steps as before, unless it was given another budget."""
        if state["configured"] == self.configured:
            self.tokens, self.one_at_a_time = state["tokens"], bool(state.get("one_at_a_time"))


def default_tokens(module: nn.Module, device: str) -> int:
    """Tokens of one forward pass if the user does not choose."""
    return tokens_per_pass(*depth_and_width(getattr(module, "config", None)), device)


def share(batches: Sequence[Item], *, rank: int, num_processes: int) -> list[Item | None]:
    """This process's micro-batches: every num_processes-th one. None fills up, so that all have the same number."""
    rounds = -(-len(batches) // num_processes)
    mine: list[Item | None] = [*batches[rank::num_processes]]
    return mine + [None] * (rounds - len(mine))


def smallest(groups: Sequence[TokenGroup]) -> TokenGroup:
    """The group that takes the place of a micro-batch in a process that has none."""
    return min(groups, key=lambda group: group.num_tokens)


def reads_prompts_once(module: nn.Module) -> bool:
    """Whether the module's forward pass shares a prompt among its completions (all tiers but the padded one)."""
    return getattr(module, "tier", "segments") != "padded"


def padding_fraction(module: nn.Module, groups: Sequence[TokenGroup], bins: Sequence[Sequence[int]]) -> float:
    """Share of the positions in the micro-batches `bins` that hold no token; packed rows have none."""
    tier = getattr(module, "tier", "segments")
    if tier == "segments":
        return 0.0
    tokens = read = 0
    for indices in bins:
        rows = [size for i in indices for size in _row_sizes(groups[i], shared=tier == "mask")]
        tokens, read = tokens + sum(rows), read + len(rows) * max(rows, default=0)
    return 1.0 - tokens / read if read else 0.0


def _row_sizes(group: TokenGroup, *, shared: bool) -> list[int]:
    """Tokens of each of a group's rows: one row, or one for each completion."""
    return [group.num_tokens] if shared else [len(group.prompt_ids) + len(c.ids) for c in group.completions]


def cost_of(module: nn.Module) -> Cost:
    return Cost.of(module, shared=reads_prompts_once(module))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, the CPU's allocator or Python ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return not isinstance(error, OutOfMemoryError)
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def free_memory(device: torch.device) -> None:
    """Frees cached blocks before a step is repeated in smaller parts."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def sharded_out_of_memory(budget: Budget) -> OutOfMemoryError:
    """For a sharded pass where neither a layer nor the head was at work (`sharded_pass.py`)."""
    return OutOfMemoryError(
        "memory ran out in a sharded pass outside of its layers, so it cannot be repeated",
        got=f"micro-batches of {budget.tokens} tokens",
        fix=f"use --micro-batch-tokens {max(1, budget.tokens // 2)}; the last checkpoint is intact",
    )
