"""Losses of comparisons: direct preference optimisation and its family.

Each is declared under the same name in `config/losses.py`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assent.objectives.ranking import soft_label_cross_entropy


@dataclass(frozen=True, slots=True)
class Pairs:
    """B comparisons. All (B,); log-probabilities are sums over the counted tokens of a completion."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor | None
    reference_rejected: Tensor | None
    chosen_lengths: Tensor | None
    rejected_lengths: Tensor | None
    margin: Tensor | None
    chosen_probability: Tensor | None

    def log_ratios(self, loss: str) -> tuple[Tensor, Tensor]:
        """log(policy / reference) of chosen and of rejected. ValueError without a reference."""
        if self.reference_chosen is None or self.reference_rejected is None:
            raise ValueError(f"loss {loss!r} needs reference_chosen and reference_rejected")
        return self.chosen - self.reference_chosen, self.rejected - self.reference_rejected


PreferenceFunction = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""(pairs, **hyperparameters) -> (values, implicit reward of chosen, of rejected), each (B,)."""


def _sigmoid(pairs: Pairs, *, beta: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """DPO (Rafailov et al., arXiv:2305.18290, eq. 7); with a margin, ODPO's offset (Amini et al., arXiv:2402.10571)."""
    log_ratio_chosen, log_ratio_rejected = pairs.log_ratios("sigmoid")
    chosen_reward, rejected_reward = beta * log_ratio_chosen, beta * log_ratio_rejected
    logits = chosen_reward - rejected_reward
    if pairs.margin is not None:
        logits = logits - pairs.margin
    return soft_label_cross_entropy(logits, pairs.chosen_probability), chosen_reward, rejected_reward


PREFERENCE_LOSSES: dict[str, PreferenceFunction] = {"sigmoid": _sigmoid}
"""Name -> function. To add one: write it here, declare it in `config/losses.py`."""


def preference_loss(
    name: str,
    *,
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor | None = None,
    reference_rejected: Tensor | None = None,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    margin: Tensor | None = None,
    chosen_probability: Tensor | None = None,
    **hyperparameters: Any,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss `name` of B comparisons -> values (B,) and metrics (B,) each, to be averaged over pairs.

    chosen, rejected            (B,) sums of log-probabilities over each completion's counted tokens
    reference_*                 (B,) the same under the reference
    *_lengths                   (B,) counted tokens, for losses that normalise by them
    margin                      (B,) by how much the first is better; the logits must exceed it
    chosen_probability          (B,) in [0, 1], probability that the first wins; 1 where none is given
    hyperparameters             the loss's own: `beta` for sigmoid; their ranges stand in `config/losses.py`

    Metrics, with the loss's implicit rewards: `rewards/chosen`, `rewards/rejected`, `rewards/margins`,
    `rewards/accuracies` (a tie counts half), `logps/chosen`, `logps/rejected`.
    ValueError for an unknown name or a missing input, TypeError for an unknown hyperparameter.
    """
    if name not in PREFERENCE_LOSSES:
        raise ValueError(f"no preference loss {name!r}; there are {', '.join(sorted(PREFERENCE_LOSSES))}")
    pairs = Pairs(
        chosen,
        rejected,
        reference_chosen,
        reference_rejected,
        chosen_lengths,
        rejected_lengths,
        margin,
        chosen_probability,
    )
    values, chosen_reward, rejected_reward = PREFERENCE_LOSSES[name](pairs, **hyperparameters)
    with torch.no_grad():
        margins = chosen_reward - rejected_reward
        metrics = {
            "rewards/chosen": chosen_reward,
            "rewards/rejected": rejected_reward,
            "rewards/margins": margins,
            "rewards/accuracies": 0.5 * (1.0 + torch.sign(margins)),
            "logps/chosen": chosen,
            "logps/rejected": rejected,
        }
    return values, {metric: value.detach() for metric, value in metrics.items()}
