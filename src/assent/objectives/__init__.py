"""Pure functions of tensors: losses, advantages and KL estimates. torch only.

Legend: B pairs, S completions, L tokens of the longest completion, N counted tokens of all completions.
Nothing here averages over a batch or draws a random number. A function returns one value for each pair or token, and
the caller divides their sum by the count of the whole step.
"""

from assent.objectives.advantages import (
    Moments,
    gae,
    group_advantages,
    leave_one_out,
    shaped_rewards,
    token_rewards,
    whiten,
)
from assent.objectives.kl import AdaptiveKLController, kl, kl_loss
from assent.objectives.pairs import Pairs, Terms
from assent.objectives.policy import policy_gradient_loss, ppo_loss
from assent.objectives.preference import preference_loss
from assent.objectives.ranking import bradley_terry, centring_penalty, ranking_loss, score_loss
from assent.objectives.reduce import as_rows, masked_mean, masked_sum
from assent.objectives.thumbs import kto_baseline, thumbs_loss
from assent.objectives.value import value_loss

__all__ = [
    "AdaptiveKLController",
    "Moments",
    "Pairs",
    "Terms",
    "as_rows",
    "bradley_terry",
    "centring_penalty",
    "gae",
    "group_advantages",
    "kl",
    "kl_loss",
    "kto_baseline",
    "leave_one_out",
    "masked_mean",
    "masked_sum",
    "policy_gradient_loss",
    "ppo_loss",
    "preference_loss",
    "ranking_loss",
    "score_loss",
    "shaped_rewards",
    "thumbs_loss",
    "token_rewards",
    "value_loss",
    "whiten",
]
