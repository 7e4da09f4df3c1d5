"""The learners of an ensemble of adapters: read side by side, updated one after another on the same rows.

Nothing but the trunk's frozen weights is shared, optimiser and clipping neither, so each member becomes what it would
alone; activations are in memory for one member at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from assent.engine.learner import Learner, Objective
from assent.models.batch import Outputs, TokenGroup
from assent.models.one_trunk import side_by_side
from assent.stages.scoring import BOOTSTRAP

SUMMED = ("perf/step_seconds", "perf/micro_batches")


class Members:
    """Two learners or more, as one."""

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = learners

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs:
        """As `Learner.read`, with a column for each member."""
        return side_by_side([learner.read(groups, want=want) for learner in self.learners], want)

    def update(self, groups: Sequence[TokenGroup], objective: Objective) -> dict[str, float]:
        """A step of each, on its own resample of the groups where they have one. Metrics are means over the members;
        time and micro-batches are sums."""
        found = [
            learner.update([of_member(group, number) for group in groups], objective)
            for number, learner in enumerate(self.learners)
        ]
        metrics = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        metrics |= {name: metrics[name] * len(found) for name in SUMMED}
        seconds = [one["perf/step_seconds"] for one in found]
        busy = sum(one["perf/mfu"] * spent for one, spent in zip(found, seconds, strict=True))
        metrics["perf/mfu"] = busy / sum(seconds)
        metrics["perf/tokens_per_second"] = sum(group.num_tokens for group in groups) / sum(seconds)
        return metrics


def of_member(group: TokenGroup, number: int) -> TokenGroup:
    """The group with the bootstrap weight of this member alone, as that of a single head; without any, as it is."""
    if BOOTSTRAP.format(number) not in group.value:
        return group
    rest = {name: value for name, value in group.value.items() if not name.startswith(BOOTSTRAP.format(""))}
    return replace(group, value={**rest, BOOTSTRAP.format(0): group.value[BOOTSTRAP.format(number)]})
