"""A step's micro-batches, several at the same time on a CPU.

A deep model's products are small, and a thread that waits for the others after each of them idles. Passes at the same
time, with their share of the threads each, do not wait for each other (benchmarks/RESULTS.md has the gain). Each worker
adds its own gradients up, and theirs are added in a fixed order: the bits depend on the number of threads, which a run
keeps (engine/threads.py), and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from assent.engine.runtime import Runtime
from assent.models.at_once import MOST_WORKERS, each_at_once
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

    sums: list[list[Tensor | None]] = [[None] * len(trained) for _ in range(hands)]

    def work(hand: int, number: int) -> Passed:
        try:
            total, terms, metrics = losses(batches[number])
        except OverflowError as error:  # a loss with an exponential, beyond its range
            return Passed(math.nan, {}, {}, beyond=str(error))
        if total.requires_grad:  # it does not if no token counts
            own = sums[hand]
            for i, grad in enumerate(torch.autograd.grad(total, trained, allow_unused=True)):
                own[i] = _added(trained[i], own[i], grad)
        return Passed(float(total.detach()), {name: term.detach() for name, term in terms.items()}, metrics)

    passed = each_at_once(work, [len(batch.input_ids) for batch in batches], hands)
    for own in sums:
        for parameter, grad in zip(trained, own, strict=True):
            parameter.grad = _added(parameter, parameter.grad, grad)
    return passed


def _added(parameter: nn.Parameter, total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    if grad is None:
        return total
    if total is None:
        # In the parameter's order of memory, which fused optimisers take for granted, and in memory of its own.
        total = torch.empty_like(parameter).detach()
        return total.copy_(grad.to_dense() if grad.is_sparse else grad)
    return total.add_(grad)
