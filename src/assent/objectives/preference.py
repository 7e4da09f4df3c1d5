"""Losses of comparisons by name. The losses themselves are in `pair_losses.py`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from assent.objectives.pair_losses import PREFERENCE_LOSSES
from assent.objectives.pairs import PairLoss, Pairs, Terms

__all__ = ["PREFERENCE_LOSSES", "preference_loss"]


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

    name                        a registered loss, or `module:function` (see `pairs.py`)
    chosen, rejected            (B,) sums of log-probabilities over each completion's counted tokens
    reference_*                 (B,) the same under the reference; an error if the loss has no reference
    *_lengths                   (B,) counted tokens, for losses that normalise by them; others ignore them
    margin                      (B,) by how much the first is better; the logits must exceed it
    chosen_probability          (B,) in [0, 1], probability p that the first wins; None: 1. The value is the loss's
                                expectation: p times the loss of the pair plus 1 - p times that of the swapped pair
    hyperparameters             the loss's own, such as `beta` for sigmoid; `config/pair_losses.py` has their ranges

    A loss with scope "step" needs the whole step's pairs. Values of `aot` and `aot_unpaired` belong to ranks, not rows.
    Metrics: `rewards/chosen`, `rewards/rejected`, `rewards/margins`, `rewards/accuracies` (a tie counts half),
    `logps/chosen`, `logps/rejected`; `nll_loss` of chosen, per token, if the loss contains it. Rewards are the loss's
    implicit ones: beta * f'(ratio) under an f-divergence, those of its likelihoods without a reference.
    Raises ValueError for an unknown name, a missing input or one that the loss cannot use, TypeError for an unknown
    hyperparameter, OverflowError beyond a loss's range.
    """
    loss = _find(name)
    pairs = Pairs(
        chosen=chosen,
        rejected=rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
        margin=margin,
    )
    _check_inputs(name, loss, pairs, chosen_probability)
    terms = Terms(*loss.function(pairs, **hyperparameters))
    values = terms.values
    if chosen_probability is not None:
        if_swapped = loss.function(pairs.swapped(), **hyperparameters)[0]
        values = chosen_probability * values + (1.0 - chosen_probability) * if_swapped
    return values, {metric: value.detach() for metric, value in _metrics(pairs, terms).items()}


def _metrics(pairs: Pairs, terms: Terms) -> dict[str, Tensor]:
    margins = terms.chosen_reward - terms.rejected_reward
    metrics = {
        "rewards/chosen": terms.chosen_reward,
        "rewards/rejected": terms.rejected_reward,
        "rewards/margins": margins,
        "rewards/accuracies": 0.5 * (1.0 + torch.sign(margins)),
        "logps/chosen": pairs.chosen,
        "logps/rejected": pairs.rejected,
    }
    return metrics if terms.nll is None else {**metrics, "nll_loss": terms.nll}


def _find(name: str) -> PairLoss:
    if ":" in name:
        module, _, function_name = name.partition(":")
        function = reduce(getattr, function_name.split("."), importlib.import_module(module))
        declared = getattr(function, "declaration", None)  # the same defaults as in `config/losses.py`
        return PairLoss(
            function=function,  # type: ignore[arg-type]
            needs_reference=getattr(declared, "needs_reference", True),
            uses_lengths=getattr(declared, "uses_lengths", True),
            accepts=getattr(declared, "accepts", frozenset()),
        )
    if name not in PREFERENCE_LOSSES:
        raise ValueError(f"no preference loss {name!r}; there are {', '.join(sorted(PREFERENCE_LOSSES))}")
    return PREFERENCE_LOSSES[name]


def _check_inputs(name: str, loss: PairLoss, pairs: Pairs, chosen_probability: Tensor | None) -> None:
    reference = (pairs.reference_chosen, pairs.reference_rejected)
    if loss.needs_reference and any(given is None for given in reference):
        raise ValueError(f"loss {name!r} needs reference_chosen and reference_rejected")
    if not loss.needs_reference and any(given is not None for given in reference):
        raise ValueError(
            f"loss {name!r} has no reference: reference_chosen and reference_rejected would have no effect"
        )
    if loss.uses_lengths and (pairs.chosen_lengths is None or pairs.rejected_lengths is None):
        raise ValueError(f"loss {name!r} needs chosen_lengths and rejected_lengths")
    optional = {"margin": pairs.margin, "chosen_probability": chosen_probability}
    for given, value in optional.items():
        if value is not None and given not in loss.accepts:
            raise ValueError(
                f"loss {name!r} cannot use {given}; it accepts {', '.join(sorted(loss.accepts)) or 'none'}"
            )
