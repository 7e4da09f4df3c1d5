"""An objective's figures on groups that it does not train on.

Legend: G groups, S completions, N counted completion tokens, as in models/batch.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from assent.engine.learner import Learner, Objective
from assent.errors import NonFiniteError
from assent.models.batch import Outputs, TokenGroup
from assent.models.packing import pack
from assent.stages.scoring import Members
from assent.statistics.intervals import mean_interval, proportion_interval

INTERVALS = {
    "accuracy": proportion_interval,
    "label_accuracy": proportion_interval,
    "margin": mean_interval,
    "rewards/accuracies": proportion_interval,
    "rewards/margins": mean_interval,
}
"""The metrics that get an interval, and the function that computes it."""


def held_out_metrics(
    learner: Learner | Members,
    groups: Sequence[TokenGroup],
    objective: Objective,
    *,
    prefix: str = "eval_",
    intervals: bool = False,
) -> dict[str, float]:
    """Loss and metrics of `objective` over all `groups` at once, with `prefix` before each name. Empty without groups.

    A metric that counts nothing has no mean and is left out.
    `intervals` adds NAME_low and NAME_high for accuracies and margins over at least two prompts: the ends of 95%
    intervals clustered by prompt.
    """
    if not groups:
        return {}
    outputs = learner.read(groups, want=set(objective.want))
    batch = pack(groups, device=torch.device("cpu"))
    try:
        sums, metrics = objective(outputs, batch)
    except OverflowError as error:
        raise NonFiniteError("the loss of the held-out data is beyond its range", got=str(error)) from error
    counts = objective.counts(batch)
    result = {"loss": sum(float(sums[term]) / counts[term] for term in sums)}
    result |= {name: float(total) / float(count) for name, (total, count) in metrics.items() if float(count)}
    if intervals:
        result |= _ends(outputs, groups, objective, result)
    return {prefix + name: value for name, value in result.items()}


def _ends(
    outputs: Outputs, groups: Sequence[TokenGroup], objective: Objective, whole: dict[str, float]
) -> dict[str, float]:
    """The ends of the intervals. Each group is measured alone; its mean counts as often as it has comparisons.

    A figure has no interval if it is not finite, or not a mean over groups (a difference of two means, for example).
    """
    values: dict[str, list[float]] = {name: [] for name in INTERVALS if math.isfinite(whole.get(name, math.nan))}
    prompts: dict[str, list[tuple[int, ...]]] = {name: [] for name in values}
    if not values:
        return {}
    for group, own in zip(groups, _by_group(outputs, groups), strict=True):
        _, metrics = objective(own, pack([group], device=torch.device("cpu")))
        for name in values.keys() & metrics.keys():  # a metric that compares groups has no value for one group
            total, count = (float(number) for number in metrics[name])
            repeats = round(count)
            values[name] += [total / count] * repeats if repeats else []
            prompts[name] += [group.prompt_ids] * repeats
    ends: dict[str, float] = {}
    for name, of_groups in values.items():
        if not of_groups or not math.isclose(np.mean(of_groups), whole[name], rel_tol=1e-4, abs_tol=1e-4):
            continue
        interval = INTERVALS[name](of_groups, clusters=prompts[name])
        if interval.clusters > 1:
            ends |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return ends


def _by_group(outputs: Outputs, groups: Sequence[TokenGroup]) -> list[Outputs]:
    """Splits the outputs by group."""
    tokens = np.cumsum([sum(c.num_counted for c in group.completions) for group in groups])[:-1].tolist()
    completions = np.cumsum([len(group.completions) for group in groups])[:-1].tolist()
    fields = {name: value for name in Outputs.__slots__ if (value := getattr(outputs, name)) is not None}
    cut = {
        name: torch.tensor_split(value, completions if name in ("scores", "last_values") else tokens)
        for name, value in fields.items()
    }
    return [Outputs(**{name: pieces[i] for name, pieces in cut.items()}) for i in range(len(groups))]
