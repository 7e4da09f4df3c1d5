"""An objective's figures on groups it does not train on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from assent.engine.learner import Learner, Objective
from assent.models.batch import TokenGroup
from assent.models.packing import pack


def held_out_metrics(
    learner: Learner, groups: Sequence[TokenGroup], objective: Objective, *, prefix: str = "eval_"
) -> dict[str, float]:
    """Loss and metrics of `objective` over all of `groups` at once, names with `prefix`; empty for no groups."""
    if not groups:
        return {}
    outputs = learner.read(groups, want=set(objective.want))
    batch = pack(groups, device=torch.device("cpu"))
    sums, metrics = objective(outputs, batch)
    counts = objective.counts(batch)
    result = {"loss": sum(float(sums[term]) / counts[term] for term in sums)}
    result |= {name: float(total) / float(count) for name, (total, count) in metrics.items()}
    return {prefix + name: value for name, value in result.items()}
