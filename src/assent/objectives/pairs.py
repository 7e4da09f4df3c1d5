"""The inputs and outputs of a loss of comparisons. Legend: B pairs.

A third party's loss is a function `(pairs, *, hyperparameters…) -> Terms` (or a plain tuple of its first three).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

MAX_EXPONENT = 80.0
"""exp(MAX_EXPONENT) is finite in float32, with room for factors and sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """B comparisons. All (B,); log-probabilities are sums over the counted tokens of a completion."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    chosen_lengths: Tensor | None = None
    rejected_lengths: Tensor | None = None
    margin: Tensor | None = None

    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """log(policy / reference) of chosen and of rejected."""
        assert self.reference_chosen is not None  # `preference_loss` sees to it
        assert self.reference_rejected is not None
        return self.chosen - self.reference_chosen, self.rejected - self.reference_rejected

    def lengths(self) -> tuple[Tensor, Tensor]:
        """Counted tokens of chosen and of rejected, in the dtype of the log-probabilities."""
        assert self.chosen_lengths is not None
        assert self.rejected_lengths is not None
        return self.chosen_lengths.to(self.chosen.dtype), self.rejected_lengths.to(self.rejected.dtype)

    def per_token(self) -> tuple[Tensor, Tensor]:
        """Mean log-probability of a token of chosen, and of rejected."""
        of_chosen, of_rejected = self.lengths()
        return self.chosen / of_chosen, self.rejected / of_rejected

    def nll(self) -> Tensor:
        """Negative log-likelihood of the chosen completion per token."""
        return -self.per_token()[0]

    def above_margin(self, logits: Tensor) -> Tensor:
        return logits if self.margin is None else logits - self.margin

    def swapped(self) -> Pairs:
        """The same pairs with chosen and rejected exchanged."""
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            reference_chosen=self.reference_rejected,
            reference_rejected=self.reference_chosen,
            chosen_lengths=self.rejected_lengths,
            rejected_lengths=self.chosen_lengths,
            margin=None if self.margin is None else -self.margin,
        )


class Terms(NamedTuple):
    """The values (B,), the implicit rewards of chosen and rejected (B,), and the NLL (B,) if the loss adds one."""

    values: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor
    nll: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLoss:
    """A loss and the inputs it reads. Its declaration says the same, and a test compares the two."""

    function: Callable[..., tuple[Any, ...]]
    needs_reference: bool
    uses_lengths: bool
    accepts: frozenset[str]


def divergence_scores(
    pairs: Pairs, f_divergence_type: str, alpha: float, *, max_exponent: float = MAX_EXPONENT
) -> tuple[Tensor, Tensor]:
    """f'(u) - f'(1) for each completion's u = policy / reference: its implicit reward divided by beta.

    f-DPO (Wang et al., arXiv:2309.16240, table 1). Raises OverflowError if an exponential would exceed float32's range.
    """
    return (
        _divergence_score(pairs.log_ratios()[0], f_divergence_type, alpha, max_exponent),
        _divergence_score(pairs.log_ratios()[1], f_divergence_type, alpha, max_exponent),
    )


def _divergence_score(log_ratio: Tensor, f_divergence_type: str, alpha: float, max_exponent: float) -> Tensor:
    if f_divergence_type == "reverse_kl":  # f'(u) = log u + 1
        return log_ratio
    if f_divergence_type == "js_divergence":  # f'(u) = log(2u / (1 + u))
        return math.log(2.0) + logsigmoid(log_ratio)
    if f_divergence_type not in ("forward_kl", "alpha_divergence"):
        raise ValueError(f"no f-divergence {f_divergence_type!r}")
    # f'(u) = -1/u is the case alpha = 1 of f'(u) = (1 - u^-alpha) / alpha
    rate = 1.0 if f_divergence_type == "forward_kl" else alpha
    exponent = -rate * log_ratio
    if bool((exponent > max_exponent).any()):
        raise OverflowError(
            f"the exponential of {f_divergence_type} overflows below a log-ratio of {-max_exponent / rate:g}, and one "
            f"log-ratio is {log_ratio.min().item():g}; reverse_kl and js_divergence have no such limit"
        )
    return -torch.expm1(exponent) / rate


def smoothed(logits: Tensor, label_smoothing: float) -> Tensor:
    """-(1 - eps) log sigma(x) - eps log sigma(-x)."""
    return -(1.0 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)
