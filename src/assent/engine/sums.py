"""A step's sums over its micro-batches and processes, and the counts that divide them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from assent.errors import RunError
from assent.models.batch import GroupBatch, TokenGroup
from assent.models.packing import pack


class Counts(Protocol):
    """What of an objective is needed to count."""

    def counts(self, batch: GroupBatch) -> Mapping[str, float]: ...


class Sums:
    """Sums over a step's micro-batches, in float64 on the CPU."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = {}
        self.values: dict[str, tuple[float, float]] = {}

    def add(
        self, terms: Mapping[str, Tensor], metrics: Mapping[str, tuple[Tensor, Tensor]], *, weight: float = 1.0
    ) -> None:
        flat = [*terms.values(), *(part for pair in metrics.values() for part in pair)]
        device = flat[0].device
        numbers = torch.stack([x.detach().to(device, torch.float32).reshape(()) for x in flat]).tolist()
        numbers = [weight * number if weight else 0.0 for number in numbers]
        for name, number in zip(terms, numbers, strict=False):
            self.terms[name] = self.terms.get(name, 0.0) + number
        pairs = numbers[len(terms) :]
        for name, total, count in zip(metrics, pairs[::2], pairs[1::2], strict=True):
            old_total, old_count = self.values.get(name, (0.0, 0.0))
            self.values[name] = (old_total + total, old_count + count)

    def metrics(
        self, counts: Mapping[str, float], reduce: Callable[[Tensor], Tensor], *, wide: torch.dtype = torch.float64
    ) -> dict[str, float]:
        """Loss, terms and metrics of the whole step. A metric that counted nothing has no mean and is left out.

        `reduce` adds up over processes, in the type `wide`.
        """
        terms, values = sorted(self.terms), sorted(self.values)
        local = [self.terms[name] for name in terms] + [part for name in values for part in self.values[name]]
        numbers = reduce(torch.tensor(local, dtype=wide)).tolist()
        losses = {f"loss/{name}": number / counts[name] for name, number in zip(terms, numbers, strict=False)}
        pairs = numbers[len(terms) :]
        means = {n: total / count for n, total, count in zip(values, pairs[::2], pairs[1::2], strict=True) if count}
        return {"loss": sum(losses.values()), **losses, **means}


def global_counts(bins: Sequence[Sequence[int]], groups: Sequence[TokenGroup], objective: Counts) -> dict[str, float]:
    """The step's denominators. Every process has all groups and counts them all, so nothing needs to be exchanged."""
    counts: dict[str, float] = {}
    for indices in bins:
        for name, count in objective.counts(pack([groups[i] for i in indices], device="cpu")).items():
            counts[name] = counts.get(name, 0.0) + float(count)
    empty = sorted(name for name, count in counts.items() if not count > 0)
    if empty:
        raise RunError(f"nothing in this step counts for the loss term {empty[0]}", got="count 0", expected="above 0")
    return counts
