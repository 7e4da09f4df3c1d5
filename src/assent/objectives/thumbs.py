"""Losses of thumbs: each single completion is desirable or not. Legend: B completions.

Each is declared under the same name in `config/thumbs_losses.py`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def kto_baseline(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """KTO's estimate of KL(policy || reference): () the mean log-ratio of mismatched pairs, at least 0, no gradient.

    (N,) summed log-probabilities of the step's completions, each under another completion's prompt (Ethayarajh et al.,
    arXiv:2402.01306, section 4.1).
    """
    return (logprobs - reference_logprobs).detach().mean().clamp(min=0.0)


def kto(
    log_ratios: Tensor,
    desirable: Tensor,
    kl_baseline: Tensor | float | None,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """KTO (Ethayarajh et al., arXiv:2402.01306): the paper's lambda_y - v(x, y) is weight * sigma(-z)."""
    if kl_baseline is None:
        raise ValueError("loss 'kto' needs kl_baseline")
    signs, weights = _signs_and_weights(log_ratios, desirable, desirable_weight, undesirable_weight)
    return weights * torch.sigmoid(-signs * beta * (log_ratios - kl_baseline)), beta * log_ratios


def apo_zero_unpaired(
    log_ratios: Tensor,
    desirable: Tensor,
    kl_baseline: Tensor | float | None,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """APO-zero (D'Oosterlinck et al., arXiv:2408.06266, eq. 7). Each term has its own rows, as in TRL."""
    if kl_baseline is not None:
        raise ValueError("loss 'apo_zero_unpaired' has no baseline: kl_baseline would have no effect")
    signs, weights = _signs_and_weights(log_ratios, desirable, desirable_weight, undesirable_weight)
    return weights * torch.sigmoid(-signs * beta * log_ratios), beta * log_ratios


THUMBS_LOSSES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"kto": kto, "apo_zero_unpaired": apo_zero_unpaired}
"""Name -> (log_ratios, desirable, kl_baseline, **hyperparameters) -> values (B,), implicit rewards (B,)."""


def thumbs_loss(
    name: str,
    *,
    logprobs: Tensor,
    reference_logprobs: Tensor,
    desirable: Tensor,
    kl_baseline: Tensor | float | None = None,
    **hyperparameters: Any,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss `name` of B completions -> values (B,) and metrics, each a vector to be averaged over its own rows.

    logprobs, reference_logprobs    (B,) sums of log-probabilities over each completion's counted tokens
    desirable                       (B,) bool, True for a thumb up
    kl_baseline                     () the step's baseline, see `kto_baseline`; for kto only

    Metrics: `rewards/chosen` and `logps/chosen` of the desirable rows, `rewards/rejected` and `logps/rejected` of the
    others. The reward is beta * log-ratio.
    Raises ValueError for an unknown name and for a missing or unused baseline, TypeError for an unknown hyperparameter.
    """
    if name not in THUMBS_LOSSES:
        raise ValueError(f"no thumbs loss {name!r}; there are {', '.join(sorted(THUMBS_LOSSES))}")
    desirable = desirable.bool()
    log_ratios = logprobs - reference_logprobs
    values, rewards = THUMBS_LOSSES[name](log_ratios, desirable, kl_baseline, **hyperparameters)
    metrics = {
        "rewards/chosen": rewards[desirable],
        "rewards/rejected": rewards[~desirable],
        "logps/chosen": logprobs[desirable],
        "logps/rejected": logprobs[~desirable],
    }
    return values, {metric: value.detach() for metric, value in metrics.items()}


def _signs_and_weights(
    log_ratios: Tensor, desirable: Tensor, desirable_weight: float, undesirable_weight: float
) -> tuple[Tensor, Tensor]:
    up = desirable.to(log_ratios.dtype)
    return 2.0 * up - 1.0, desirable_weight * up + undesirable_weight * (1.0 - up)
