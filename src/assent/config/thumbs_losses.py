"""The declared losses of thumbs: single completions, each desirable or not."""

from __future__ import annotations

import math

from assent.config.loss_declaration import Hyperparameter, LossDeclaration

_HYPERPARAMETERS = {
    "beta": Hyperparameter(0.1, 0.0, math.inf, "Strength of the pull to the reference.", open=True),
    "desirable_weight": Hyperparameter(1.0, 0.0, math.inf, "Weight of completions with a thumb up."),
    "undesirable_weight": Hyperparameter(1.0, 0.0, math.inf, "Weight of completions with a thumb down."),
}


def _half(
    *, desirable_weight: float = 1.0, undesirable_weight: float = 1.0, desirable_fraction: float = 0.5, **_: float
) -> float:
    """Each row gives half its weight, so the mean depends on the share of desirable rows."""
    return 0.5 * (desirable_fraction * desirable_weight + (1.0 - desirable_fraction) * undesirable_weight)


DECLARED_THUMBS = (
    LossDeclaration(
        name="kto",
        summary="KTO: prospect theory's value of a completion, relative to the policy's KL to the reference.",
        hyperparameters=_HYPERPARAMETERS,
        paper="Ethayarajh et al. 2024, arXiv:2402.01306",
        equation="desirable: w_d (1 - sigma(beta * (log-ratio - KL))); else: w_u (1 - sigma(beta * (KL - log-ratio)))",
        needs_reference=True,
        accepts=frozenset({"kl_baseline"}),
        scope="step",
        zero_margin_value=_half,
    ),
    LossDeclaration(
        name="apo_zero_unpaired",
        summary="APO-zero for single completions: desirable ones up, others down, without KTO's baseline.",
        hyperparameters=_HYPERPARAMETERS,
        paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, with each term on its own rows",
        equation="desirable: w_d (1 - sigma(beta * log-ratio)); else: w_u sigma(beta * log-ratio)",
        needs_reference=True,
        zero_margin_value=_half,
    ),
)
"""In the order of the documentation."""
