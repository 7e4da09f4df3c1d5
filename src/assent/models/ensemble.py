"""An ensemble of adapters: N reward models, each an adapter and a head of its own, around the weights of one trunk.

As on `one_trunk.py`'s, every member has modules of its own around the same parameters, so each is read, trained and
saved as if it were alone: no adapter is switched, and memory holds the trunk once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from assent.models.batch import GroupBatch, Outputs
from assent.models.module import AlignmentModel
from assent.models.trunk import trunk_of


def siblings(model: PreTrainedModel, number: int) -> list[PreTrainedModel]:
    """`model` and copies of it, `number` in all: the trunk's parameters are the same tensors in each, heads are own."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in trunk_of(model).parameters()}
    return [model, *(copy.deepcopy(model, dict(shared)) for _ in range(number - 1))]


class Ensemble(nn.Module):
    """Scorers of one head each that are read side by side: (S,) of each becomes (S, M)."""

    def __init__(self, members: Sequence[AlignmentModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.tier, self.config = members[0].tier, members[0].config

    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        """As an AlignmentModel with a head for each member."""
        return side_by_side([member(batch, want) for member in self.members], want)


def side_by_side(outputs: Sequence[Outputs], want: frozenset[str] | set[str]) -> Outputs:
    """What members of one head each gave of the same batch, as of one scorer with as many heads."""
    fields: dict[str, list[Tensor]] = {name: [getattr(one, name) for one in outputs] for name in want}
    return Outputs(**{name: torch.stack(parts, dim=-1) for name, parts in fields.items()})
