"""Random numbers as a function of (seed, purpose, key…), not of hidden state (law 7): a resumed run draws the same."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


def derived_seed(seed: int, purpose: str, *key: int) -> int:
    """63 bits of the arguments' SHA-256: they depend on every argument, and neighbouring keys share nothing."""
    text = "/".join([str(seed), purpose, *map(str, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *key: int) -> torch.Generator:
    """A generator for one purpose and key (step, prompt, k …). On the CPU: the same numbers on every device."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *key))


def permutation(n: int, seed: int, purpose: str, *key: int) -> list[int]:
    """0 … n−1 in an order that depends only on the arguments."""
    return torch.randperm(n, generator=generator(seed, purpose, *key)).tolist()


def uniforms(n: int, seed: int, purpose: str, *key: int) -> Tensor:
    """(n,) float64 in [0, 1)."""
    return torch.rand(n, generator=generator(seed, purpose, *key), dtype=torch.float64)


@dataclass(frozen=True)
class Batches:
    """Which rows each step reads, as a function of the step.

    Every epoch reads every row once. Its last batch may be smaller; it is not dropped.

    epochs      may be a fraction: ceil(epochs · batches per epoch) steps
    max_steps   the number of steps, however many epochs they take; 0: the number follows from `epochs`
    """

    num_rows: int
    batch_size: int
    epochs: float = 1.0
    max_steps: int = 0
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.num_rows < 1 or self.batch_size < 1:
            raise ValueError(f"{self.num_rows} rows in batches of {self.batch_size}: both must be at least 1")

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.num_rows / self.batch_size)

    @property
    def num_steps(self) -> int:
        return self.max_steps or math.ceil(self.epochs * self.per_epoch)

    def indices(self, step: int) -> list[int]:
        """The rows of the step's batch. Steps count from 0."""
        epoch, batch = divmod(step, self.per_epoch)
        return _order(self, epoch)[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()

    def epochs_done(self, num_steps: int) -> float:
        """Passes over the data after this number of steps."""
        epoch, batch = divmod(num_steps, self.per_epoch)
        return epoch + min(batch * self.batch_size, self.num_rows) / self.num_rows


@lru_cache(maxsize=2)
def _order(batches: Batches, epoch: int) -> Tensor:
    """(num_rows,) int32: the rows of an epoch, at four bytes each."""
    if not batches.shuffle:
        return torch.arange(batches.num_rows, dtype=torch.int32)
    order = torch.randperm(batches.num_rows, generator=generator(batches.seed, "epoch", epoch))
    return order.to(torch.int32)
