"""The load-balancing loss of a mixture of experts, beside any objective, and cut into micro-batches (law 2).

E Σ_e f_e P_e over the step's tokens: f_e is how often expert e is among a token's top k, on average, and P_e its mean
probability (Fedus et al., arXiv:2101.03961, eq. 4). No gradient flows through f. So with f of the whole step, which a
pass without gradient counts first, the loss is a sum over tokens.

Legend: E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from assent.engine.micro_batches import Budget
from assent.engine.reading import outputs_of
from assent.engine.runtime import Runtime
from assent.engine.sums import Objective
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.router import num_counted

ROUTER = "router"
TERM = "aux"


AUX = (f"loss/{TERM}", "aux_loss")
"""The metrics of the load-balancing loss."""


def choices_of(
    module: nn.Module,
    groups: Sequence[TokenGroup],
    bins: Sequence[Sequence[int]],
    *,
    runtime: Runtime,
    budget: Budget,
) -> tuple[Tensor, int] | None:
    """(E,) how often each expert is chosen in the step, by all processes, and the number of tokens; None if memory ran
    out on some process."""
    read = outputs_of(module, groups, bins, want=frozenset({ROUTER}), runtime=runtime, budget=budget)
    if read is None:
        return None
    found = [outputs.router[0].cpu() for _, outputs in read if outputs.router is not None]
    width = int(runtime.max(torch.tensor(max(map(len, found), default=0))))
    total = torch.stack(found).sum(0) if found else torch.zeros(width)
    aside = sum(len(c.ids) for group in groups for c in group.completions if c.aside)
    return runtime.sum(total), sum(group.num_tokens for group in groups) - aside


@dataclass(frozen=True, slots=True)
class Balanced:
    """`objective` plus `coefficient` times the load-balancing loss.

    choices   (E,) how often each expert is chosen in the whole step, and `tokens`, the number of its tokens; None: the
              step is the one batch that this is called with
    """

    objective: Objective
    coefficient: float
    choices: Tensor | None = None
    tokens: int = 0

    @property
    def want(self) -> frozenset[str]:
        return frozenset(self.objective.want) | {ROUTER}

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {**self.objective.counts(batch), TERM: float(num_counted(batch))}

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        assert outputs.router is not None
        terms, metrics = self.objective(outputs, batch)
        choices, probabilities = outputs.router
        count = choices.new_tensor(float(num_counted(batch)))
        frequency = choices / count if self.choices is None else self.choices.to(choices.device) / self.tokens
        loss = len(choices) * (frequency * probabilities).sum()
        return {**terms, TERM: self.coefficient * loss}, {**metrics, "aux_loss": (loss.detach(), count)}
