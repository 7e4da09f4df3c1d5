"""A step's micro-batches, several at the same time on a CPU.

A deep model's products are small, and a thread that waits for the others after each of them idles. With two threads on
two cores, DPO on SmolLM2-135M with LoRA used 73% of their time; two passes at the same time, of one thread each, use
all of it (benchmarks/RESULTS.md). Each worker adds its own gradients up, and theirs are added in a fixed order: the
bits depend on the number of threads, which a run keeps (engine/threads.py), and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from assent.engine.runtime import Runtime
from assent.models.at_once import MOST_WORKERS, at_once, dealt
from assent.models.batch import GroupBatch

MOST_TRAINED = 2**25
"""The most trained numbers of which each worker keeps gradients."""

Terms = Mapping[str, Tensor]
Metrics = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Passed:
    """One micro-batch's share of the loss, and its sums.

    beyond   the message of a loss that was asked beyond its range; the share is then not a number
    """

    loss: float
    terms: Terms
    metrics: Metrics
    beyond: str = ""


def workers(module: nn.Module, runtime: Runtime) -> int:
    """How many passes run at the same time. It depends on the model, the machine and torch's threads alone."""
    if runtime.num_processes > 1 or runtime.is_sharded or runtime.device.type != "cpu":
        return 1
    tiers = {part.tier for part in module.modules() if hasattr(part, "tier")}
    if tiers != {"segments"}:  # other tiers run code of the model that may not bear two callers
        return 1
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return min(MOST_WORKERS, torch.get_num_threads()) if trained <= MOST_TRAINED else 1


def backward_at_once(
    module: nn.Module,
    batches: Sequence[GroupBatch],
    losses: Callable[[GroupBatch], tuple[Tensor, Terms, Metrics]],
    *,
    hands: int,
) -> list[Passed]:
    """Puts the gradient of the sum of `losses` of all batches into `.grad`. Returns what each batch gave, in order."""
    trained = [p for p in module.parameters() if p.requires_grad]

    def work(mine: Sequence[int], sums: list[Tensor | None]) -> Iterator[tuple[int, Passed]]:
        for number in mine:
            try:
                total, terms, metrics = losses(batches[number])
            except OverflowError as error:  # a loss with an exponential, beyond its range
                yield number, Passed(math.nan, {}, {}, beyond=str(error))
                continue
            if total.requires_grad:  # it does not if no token counts
                for i, grad in enumerate(torch.autograd.grad(total, trained, allow_unused=True)):
                    sums[i] = _added(trained[i], sums[i], grad)
            found = {name: term.detach() for name, term in terms.items()}
            yield number, Passed(float(total.detach()), found, metrics)

    hand = dealt([len(batch.input_ids) for batch in batches], hands)
    sums: list[list[Tensor | None]] = [[None] * len(trained) for _ in hand]
    found = at_once([work(mine, own) for mine, own in zip(hand, sums, strict=True)])
    for own in sums:
        for parameter, grad in zip(trained, own, strict=True):
            parameter.grad = _added(parameter, parameter.grad, grad)
    return [passed for _, passed in sorted((pair for one in found for pair in one), key=lambda pair: pair[0])]


def _added(parameter: nn.Parameter, total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    if grad is None:
        return total
    if total is None:
        # In the parameter's order of memory, which fused optimisers take for granted, and in memory of its own.
        total = torch.empty_like(parameter).detach()
        return total.copy_(grad.to_dense() if grad.is_sparse else grad)
    return total.add_(grad)
