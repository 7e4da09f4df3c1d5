"""Losses that look at the whole step, and are cut into micro-batches all the same (law 2).

Let L be a loss of all numbers x that the model outputs in a step (log-probabilities, scores …): dL = Σ (∂L/∂x)·dx.
First the step's numbers are read without gradient. From them ∂L/∂x is computed, without the model. Then each
micro-batch propagates Σ x·(∂L/∂x) over its own numbers. This is a sum, so any cut and any process gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assent.engine.reading import PER_COMPLETION
from assent.engine.sums import Objective, Sums
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.packing import pack

PREFIX = "gradient_of_"


def looks_at_the_step(objective: object) -> bool:
    return getattr(objective, "scope", "row") == "step"


@dataclass(frozen=True, slots=True)
class Propagation:
    """The objective Σ x·(∂L/∂x), whose gradients are those of L."""

    want: frozenset[str]
    num_groups: int
    """In the whole step."""

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {"step": batch.num_groups / self.num_groups}  # they add up to 1: ∂L/∂x is divided already

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        parts = []
        for name in self.want:
            fields = batch.completion if name in PER_COMPLETION else batch.token
            parts.append((getattr(outputs, name).float().reshape(-1) * fields[PREFIX + name]).sum())
        return {"step": torch.stack(parts).sum()}, {}


def propagated(
    groups: Sequence[TokenGroup], objective: Objective, outputs: Outputs, *, keep: bool = False
) -> tuple[list[TokenGroup], Propagation, dict[str, float]]:
    """The groups with ∂L/∂x beside their tokens, the objective that propagates it, and L's metrics of the step.

    `outputs` belong to `groups`, in their order, on the CPU, one number for each token or completion. A completion that
    L does not depend on (KTO's mismatched ones) is left out: nothing needs to be propagated through it. `keep`: only
    those that are read aside are, because another loss looks at the others' tokens.
    """
    numbers = {name: getattr(outputs, name).requires_grad_() for name in objective.want}
    batch = pack(groups, device="cpu")
    terms, metrics = objective(Outputs(**numbers), batch)
    sums = Sums.over([batch], objective)
    sums.add(terms, metrics)
    loss = sums.loss(terms)
    gradients = {name: torch.zeros(len(values)) for name, values in numbers.items()}
    if loss.requires_grad:  # not where no token counts
        found = torch.autograd.grad(loss, list(numbers.values()), allow_unused=True)
        gradients |= {name: found for name, found in zip(numbers, found, strict=True) if found is not None}
    whole = [_with_gradients(group, own) for group, own in zip(groups, by_group(groups, gradients), strict=True)]
    left = [_depended_on(group, keep=keep) for group in whole]
    parts = [part for part in left if part.completions] or whole[:1]
    return parts, Propagation(frozenset(numbers), len(parts)), sums.metrics(lambda local: local)


def by_group(groups: Sequence[TokenGroup], numbers: Mapping[str, Tensor]) -> Iterator[dict[str, list[np.ndarray]]]:
    """Splits (N,) and (S,) numbers in the groups' order: for each group and name, an array for each completion."""
    done = dict.fromkeys(numbers, 0)
    for group in groups:
        own: dict[str, list[np.ndarray]] = {name: [] for name in numbers}
        for completion in group.completions:
            for name, values in numbers.items():
                start = done[name]
                done[name] += 1 if name in PER_COMPLETION else completion.num_counted
                own[name].append(values[start : done[name]].numpy())
        yield own


def groups_not_finite(groups: Sequence[TokenGroup], outputs: Outputs, want: frozenset[str]) -> list[TokenGroup]:
    """The groups for which the model's output is not finite."""
    numbers = {name: getattr(outputs, name) for name in want}
    return [
        group
        for group, own in zip(groups, by_group(groups, numbers), strict=True)
        if not all(np.isfinite(array).all() for arrays in own.values() for array in arrays)
    ]


def _with_gradients(group: TokenGroup, own: Mapping[str, Sequence[np.ndarray]]) -> TokenGroup:
    """The group with ∂L/∂x as fields. A token that does not count gets 0."""
    token, completion = dict(group.token), dict(group.completion)
    for name, arrays in own.items():
        if name in PER_COMPLETION:
            completion[PREFIX + name] = np.concatenate(arrays)
        else:
            token[PREFIX + name] = [_placed(a, c.mask) for a, c in zip(arrays, group.completions, strict=True)]
    return replace(group, token=token, completion=completion)


def _placed(counted: np.ndarray, mask: tuple[bool, ...] | None) -> np.ndarray:
    if mask is None:
        return counted
    whole = np.zeros(len(mask), np.float32)
    whole[np.asarray(mask)] = counted
    return whole


def _depended_on(group: TokenGroup, *, keep: bool) -> TokenGroup:
    """The group without the completions whose ∂L/∂x are all zero; with `keep` only without those aside."""
    fields: dict[str, Any] = {**group.token, **group.completion}
    numbers = [arrays for name, arrays in fields.items() if name.startswith(PREFIX)]
    kept = [
        k
        for k, completion in enumerate(group.completions)
        if (keep and not completion.aside) or any(np.any(arrays[k]) for arrays in numbers)
    ]
    return group.only(kept)
