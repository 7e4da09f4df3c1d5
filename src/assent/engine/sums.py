"""Sums over a step's micro-batches and processes, and the counts that divide them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from assent.errors import RunError
from assent.models.batch import GroupBatch, Outputs


class Objective(Protocol):
    """A stage's pure functions, as the Learner calls them.

    An objective with `scope = "step"` looks at the whole step: it gets all of the step's groups at once, so its result
    does not depend on how the Learner cuts them (engine/whole_step.py).
    """

    @property
    def want(self) -> frozenset[str]:
        """The outputs it reads."""

    def counts(self, batch: GroupBatch) -> Mapping[str, float]:
        """The denominator of each loss term, from the batch alone. The Learner adds them up over the whole step."""

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        """The SUM of each term over this micro-batch, and (sum, count) of each metric."""


class Sums:
    """Sums over a step's micro-batches, in float64 on the CPU.

    counts   the denominator of each loss term in the whole step
    """

    def __init__(self, counts: Mapping[str, float]) -> None:
        self.counts = counts
        self.terms: dict[str, float] = {}
        self.values: dict[str, tuple[float, float]] = {}

    @classmethod
    def over(cls, batches: Iterable[GroupBatch], objective: Objective) -> Sums:
        """With the counts of all of a step's micro-batches. Every process has them all, so none are exchanged.

        Raises RunError if nothing counts for a term.
        """
        counts: dict[str, float] = {}
        for batch in batches:
            for name, count in objective.counts(batch).items():
                counts[name] = counts.get(name, 0.0) + float(count)
        empty = sorted(name for name, count in counts.items() if not count > 0)
        if empty:
            raise RunError(
                f"nothing in this step counts for the loss term {empty[0]}", got="count 0", expected="above 0"
            )
        return cls(counts)

    def loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        """A micro-batch's share of the step's loss."""
        return torch.stack([terms[name].float() / self.counts[name] for name in terms]).sum()

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

    def metrics(self, reduce: Callable[[Tensor], Tensor], *, wide: torch.dtype = torch.float64) -> dict[str, float]:
        """Loss, terms and metrics of the whole step. A metric with a count of zero has no mean and is left out.

        `reduce` adds up over processes, in the type `wide`.
        """
        terms, values = sorted(self.terms), sorted(self.values)
        local = [self.terms[name] for name in terms] + [part for name in values for part in self.values[name]]
        numbers = reduce(torch.tensor(local, dtype=wide)).tolist()
        losses = {f"loss/{name}": number / self.counts[name] for name, number in zip(terms, numbers, strict=False)}
        pairs = numbers[len(terms) :]
        means = {n: total / count for n, total, count in zip(values, pairs[::2], pairs[1::2], strict=True) if count}
        return {"loss": sum(losses.values()), **losses, **means}
