"""Token records: `TokenGroup` (one prompt, K completions) and `GroupBatch` (many groups packed into one row).

Legend: G groups, S completions (sequences) of all groups, N counted completion tokens of all completions,
T tokens of the packed row. Groups, completions and tokens keep their order: token n belongs to completion
`sequence[n]`, which belongs to group `group[s]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenCompletion:
    """`ids` of one completion, EOS included where it ends with one. `mask[t]` True: token t counts (None: all do).

    `step_ends`: the last token of each of its successive steps, where the data has steps. `aside`: it is read for a
    baseline alone, and nothing is learned from it.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...] | None = None
    truncated: bool = False
    step_ends: tuple[int, ...] = ()
    aside: bool = False

    @property
    def num_counted(self) -> int:
        return len(self.ids) if self.mask is None else sum(self.mask)


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """One prompt and its K completions as ids, with the numbers that objectives need.

    token[name]       K arrays, one for each completion, with one number for each of its tokens, counted or not
    completion[name]  (K,) one number for each completion
    value[name]       one number for the group
    """

    prompt_ids: tuple[int, ...]
    completions: tuple[TokenCompletion, ...]
    token: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    completion: Mapping[str, np.ndarray] = field(default_factory=dict)
    value: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    def only(self, kept: Sequence[int]) -> TokenGroup:
        """The group with these of its completions; the same object if they are all of them."""
        if len(kept) == len(self.completions):
            return self
        return replace(
            self,
            completions=tuple(self.completions[k] for k in kept),
            token={name: [arrays[k] for k in kept] for name, arrays in self.token.items()},
            completion={name: array[list(kept)] for name, array in self.completion.items()},
        )

    @property
    def prompt_length(self) -> int:
        return len(self.prompt_ids)

    @property
    def completion_lengths(self) -> list[int]:
        return [len(completion.ids) for completion in self.completions]

    @property
    def num_counted(self) -> int:
        return sum(completion.num_counted for completion in self.completions)

    @property
    def num_tokens(self) -> int:
        """Tokens of the packed row: the prompt once, each completion once."""
        return len(self.prompt_ids) + sum(self.completion_lengths)

    @property
    def num_padded_tokens(self) -> int:
        """Tokens if the prompt is repeated for each completion (in the padded tier, before padding)."""
        return len(self.prompt_ids) * len(self.completions) + sum(self.completion_lengths)


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """Groups packed into one row for a single forward pass. Tensors live on one device.

    input_ids, position_ids   (T,)
    prompts                   G pairs (start, end) in the row
    completions               S pairs (start, end) in the row
    aside                     S flags: the completion is read for a baseline alone
    group                     (S,) the group of each completion
    sequence                  (N,) the completion of each counted token
    read_at                   (N,) row position whose hidden state predicts counted token n
    targets                   (N,) its id
    last_at                   (S,) row position of each completion's last token (where a score is read)
    token, completion, value  fields as in TokenGroup, packed: (N,), (S,), (G,) float32
    sources                   G row names, for messages
    """

    input_ids: Tensor
    position_ids: Tensor
    prompts: tuple[tuple[int, int], ...]
    completions: tuple[tuple[int, int], ...]
    group: Tensor
    sequence: Tensor
    read_at: Tensor
    targets: Tensor
    last_at: Tensor
    token: Mapping[str, Tensor]
    completion: Mapping[str, Tensor]
    value: Mapping[str, Tensor]
    sources: tuple[str, ...]
    aside: tuple[bool, ...]

    @property
    def num_groups(self) -> int:
        return len(self.prompts)

    @property
    def num_completions(self) -> int:
        return len(self.completions)

    @property
    def num_counted(self) -> int:
        return int(self.targets.shape[0])

    def to(self, device: torch.device) -> GroupBatch:
        """The batch with its tensors on `device`; the same object if they are there already."""
        if self.input_ids.device == device:
            return self
        tensors = ("input_ids", "position_ids", "group", "sequence", "read_at", "targets", "last_at")
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in tensors}
        for name in ("token", "completion", "value"):
            moved[name] = {key: tensor.to(device) for key, tensor in getattr(self, name).items()}
        return replace(self, **moved)

    def sum_by_completion(self, per_token: Tensor) -> Tensor:
        """(N,) -> (S,): the sum over each completion's counted tokens, in float32 or wider."""
        wide = per_token if per_token.dtype == torch.float64 else per_token.float()
        return wide.new_zeros(self.num_completions).index_add(0, self.sequence, wide)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The result of one read, in the order of the groups. A field that was not wanted is None.

    logprobs     (N,) log-probability of each counted completion token
    entropy      (N,) entropy in nats of the distribution it was drawn from
    values       (N,) the head's value of the state before each counted token
    last_values  (S,) the head's value after each completion's last token
    scores       (S,) or (S, heads) the head's score at each completion's last token
    router       (2, experts) of a mixture of experts, see `models/router.py: routed`; a sum over the batch
    """

    logprobs: Tensor | None = None
    entropy: Tensor | None = None
    values: Tensor | None = None
    last_values: Tensor | None = None
    scores: Tensor | None = None
    router: Tensor | None = None
