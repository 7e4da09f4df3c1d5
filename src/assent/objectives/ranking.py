"""Losses of scores: reward models."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    margin: Tensor | None = None,
    *,
    chosen_probability: Tensor | None = None,
) -> Tensor:
    """(B,) scores of each -> (B,) -log sigma(chosen - rejected - margin).

    Bradley and Terry 1952; Ouyang et al., arXiv:2203.02155, eq. 1; the margin is Llama 2's (arXiv:2307.09288, eq. 2).
    chosen_probability (B,) in [0, 1]: the cross-entropy to a soft label; 1 for all where none are given.
    """
    logits = chosen_scores - rejected_scores
    if margin is not None:
        logits = logits - margin
    return soft_label_cross_entropy(logits, chosen_probability)


def soft_label_cross_entropy(logits: Tensor, probability: Tensor | None) -> Tensor:
    """-p log sigma(x) - (1 - p) log sigma(-x), p = 1 where none is given: exact and finite for every finite x."""
    if probability is None:
        return -logsigmoid(logits)
    return -probability * logsigmoid(logits) - (1.0 - probability) * logsigmoid(-logits)
