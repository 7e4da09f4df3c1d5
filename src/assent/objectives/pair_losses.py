"""The losses of comparisons: direct preference optimisation and its family. Legend: B pairs, all tensors (B,).

Each is declared under the same name in `config/pair_losses.py`, with its paper and equation; a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from assent.objectives.pairs import MAX_EXPONENT, PairLoss, Pairs, Terms, divergence_scores, smoothed

PREFERENCE_LOSSES: dict[str, PairLoss] = {}
"""Name -> loss. To add one: write it here, declare it in `config/pair_losses.py`."""

Function = Callable[..., Terms]

SOFT = ("chosen_probability",)
SOFT_AND_MARGIN = ("chosen_probability", "margin")


def _registered(
    *, needs_reference: bool = True, uses_lengths: bool = False, accepts: tuple[str, ...] = SOFT
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        PREFERENCE_LOSSES[function.__name__] = PairLoss(
            function=function, needs_reference=needs_reference, uses_lengths=uses_lengths, accepts=frozenset(accepts)
        )
        return function

    return register


@_registered(accepts=SOFT_AND_MARGIN)
def sigmoid(
    pairs: Pairs,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
) -> Terms:
    """DPO (Rafailov et al., arXiv:2305.18290, eq. 7); with a margin, ODPO's offset (Amini et al., arXiv:2402.10571)."""
    chosen, rejected = divergence_scores(pairs, f_divergence_type, f_alpha_divergence_coef)
    logits = pairs.above_margin(beta * (chosen - rejected))
    return Terms(smoothed(logits, label_smoothing), beta * chosen, beta * rejected)


@_registered(uses_lengths=True, accepts=SOFT_AND_MARGIN)
def sigmoid_norm(
    pairs: Pairs, *, beta: float = 0.1, f_divergence_type: str = "reverse_kl", f_alpha_divergence_coef: float = 0.5
) -> Terms:
    """Length-normalised DPO (Lambert et al., arXiv:2411.15124, eq. 6)."""
    chosen, rejected = _per_token(pairs, divergence_scores(pairs, f_divergence_type, f_alpha_divergence_coef))
    logits = pairs.above_margin(beta * (chosen - rejected))
    return Terms(-logsigmoid(logits), beta * chosen, beta * rejected)


@_registered(accepts=SOFT_AND_MARGIN)
def robust(
    pairs: Pairs,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
) -> Terms:
    """Robust DPO (Chowdhury et al., arXiv:2403.00409): its mean over label flips of probability eps is DPO's loss."""
    chosen, rejected = divergence_scores(pairs, f_divergence_type, f_alpha_divergence_coef)
    logits = pairs.above_margin(beta * (chosen - rejected))
    values = -(1.0 - label_smoothing) * logsigmoid(logits) + label_smoothing * logsigmoid(-logits)
    return Terms(values / (1.0 - 2.0 * label_smoothing), beta * chosen, beta * rejected)


@_registered(uses_lengths=True)
def ipo(
    pairs: Pairs, *, beta: float = 0.1, f_divergence_type: str = "reverse_kl", f_alpha_divergence_coef: float = 0.5
) -> Terms:
    """IPO (Azar et al., arXiv:2310.12036, eq. 17, beta for tau), per token: as in the paper's experiments."""
    scores = divergence_scores(pairs, f_divergence_type, f_alpha_divergence_coef, max_exponent=MAX_EXPONENT / 2)
    chosen, rejected = _per_token(pairs, scores)
    return Terms((chosen - rejected - 1.0 / (2.0 * beta)) ** 2, beta * chosen, beta * rejected)


@_registered(accepts=SOFT_AND_MARGIN)
def hinge(
    pairs: Pairs, *, beta: float = 0.1, f_divergence_type: str = "reverse_kl", f_alpha_divergence_coef: float = 0.5
) -> Terms:
    """Hinge on the implicit rewards (Liu et al., arXiv:2309.06657, after SLiC)."""
    chosen, rejected = divergence_scores(pairs, f_divergence_type, f_alpha_divergence_coef)
    logits = pairs.above_margin(beta * (chosen - rejected))
    return Terms(relu(1.0 - logits), beta * chosen, beta * rejected)


@_registered(accepts=SOFT_AND_MARGIN)
def exo_pair(
    pairs: Pairs,
    *,
    beta: float = 0.1,
    label_smoothing: float = 1e-3,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
) -> Terms:
    """EXO-pref (Ji et al., arXiv:2402.00856, eq. 16): KL from (q, 1 - q) to (1 - eps, eps)."""
    chosen, rejected = divergence_scores(pairs, f_divergence_type, f_alpha_divergence_coef)
    logits = pairs.above_margin(beta * (chosen - rejected))
    for_chosen = torch.sigmoid(logits) * (logsigmoid(logits) - math.log1p(-label_smoothing))
    for_rejected = torch.sigmoid(-logits) * (logsigmoid(-logits) - math.log(label_smoothing))
    return Terms(for_chosen + for_rejected, beta * chosen, beta * rejected)


@_registered(accepts=SOFT_AND_MARGIN)
def discopop(
    pairs: Pairs,
    *,
    beta: float = 0.1,
    discopop_tau: float = 0.05,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
) -> Terms:
    """DiscoPOP (Lu et al., arXiv:2406.08414, eq. 5)."""
    chosen, rejected = divergence_scores(pairs, f_divergence_type, f_alpha_divergence_coef)
    logits = pairs.above_margin(beta * (chosen - rejected))
    logistic = -torch.sigmoid(-logits / discopop_tau) * logsigmoid(logits)
    # sigma(x / tau) exp(-x) in one exponential, which is bounded for tau <= 1: the two factors alone give inf * 0
    exponential = torch.exp(logsigmoid(logits / discopop_tau) - logits)
    return Terms(logistic + exponential, beta * chosen, beta * rejected)


@_registered()
def nca_pair(pairs: Pairs, *, beta: float = 0.1) -> Terms:
    """NCA of two completions (Chen et al., arXiv:2402.05369)."""
    chosen, rejected = _rewards(pairs, beta)
    values = -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)
    return Terms(values, chosen, rejected)


@_registered()
def bco_pair(pairs: Pairs, *, beta: float = 0.1) -> Terms:
    """BCO (Jung et al., arXiv:2404.04656). The reward shift delta is the mean over the pairs given, those of the whole
    step: a pure function keeps no running mean. No gradient flows through delta. TRL 1.16 leaves delta out."""
    chosen, rejected = _rewards(pairs, beta)
    delta = 0.5 * (chosen + rejected).detach().mean()
    return Terms(-logsigmoid(chosen - delta) - logsigmoid(delta - rejected), chosen, rejected)


@_registered()
def sppo_hard(pairs: Pairs, *, beta: float = 0.1) -> Terms:
    """SPPO (Wu et al., arXiv:2405.00675, eq. 4.7), with P = 1 for chosen. Soft labels give the gradient of P = p."""
    chosen, rejected = pairs.log_ratios()
    values = (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2
    return Terms(values, beta * chosen, beta * rejected)


@_registered(accepts=())
def aot(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Terms:
    """AOT, paired (Melnyk et al., arXiv:2406.05882). A value belongs to a rank in the step, not to a row."""
    assert pairs.reference_chosen is not None
    assert pairs.reference_rejected is not None
    policy, _ = torch.sort(pairs.chosen - pairs.rejected)
    reference, _ = torch.sort(pairs.reference_chosen - pairs.reference_rejected)
    return Terms(smoothed(beta * (policy - reference), label_smoothing), *_rewards(pairs, beta))


@_registered(accepts=())
def aot_unpaired(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Terms:
    """AOT, unpaired (Melnyk et al., arXiv:2406.05882). A value belongs to a rank in the step, not to a row."""
    chosen, rejected = pairs.log_ratios()
    margins = torch.sort(chosen).values - torch.sort(rejected).values
    return Terms(smoothed(beta * margins, label_smoothing), *_rewards(pairs, beta))


@_registered()
def apo_zero(pairs: Pairs, *, beta: float = 0.1) -> Terms:
    """APO-zero (D'Oosterlinck et al., arXiv:2408.06266, eq. 7)."""
    chosen, rejected = _rewards(pairs, beta)
    return Terms(torch.sigmoid(-chosen) + torch.sigmoid(rejected), chosen, rejected)


@_registered()
def apo_down(pairs: Pairs, *, beta: float = 0.1) -> Terms:
    """APO-down (D'Oosterlinck et al., arXiv:2408.06266, eq. 8)."""
    chosen, rejected = _rewards(pairs, beta)
    return Terms(torch.sigmoid(chosen) + torch.sigmoid(rejected - chosen), chosen, rejected)


@_registered(accepts=SOFT_AND_MARGIN)
def dpop(pairs: Pairs, *, beta: float = 0.1, dpop_lambda: float = 50.0) -> Terms:
    """DPO-Positive (Pal et al., arXiv:2402.13228, eq. 3)."""
    chosen, rejected = pairs.log_ratios()
    logits = pairs.above_margin(beta * (chosen - rejected - dpop_lambda * relu(-chosen)))
    return Terms(-logsigmoid(logits), beta * chosen, beta * rejected)


@_registered(uses_lengths=True, accepts=SOFT_AND_MARGIN)
def rpo(pairs: Pairs, *, beta: float = 0.1, rpo_alpha: float = 1.0) -> Terms:
    """RPO (Pang et al., arXiv:2404.19733, eq. 1)."""
    chosen, rejected = _rewards(pairs, beta)
    values = -logsigmoid(pairs.above_margin(chosen - rejected))
    return Terms(values + rpo_alpha * pairs.nll(), chosen, rejected, pairs.nll())


@_registered(needs_reference=False, uses_lengths=True, accepts=SOFT_AND_MARGIN)
def simpo(pairs: Pairs, *, beta: float = 2.0, simpo_gamma: float = 1.0, label_smoothing: float = 0.0) -> Terms:
    """SimPO (Meng et al., arXiv:2405.14734, eq. 6)."""
    chosen, rejected = (beta * each for each in pairs.per_token())
    logits = pairs.above_margin(chosen - rejected - simpo_gamma)
    return Terms(smoothed(logits, label_smoothing), chosen, rejected)


@_registered(needs_reference=False, uses_lengths=True)
def orpo(pairs: Pairs, *, beta: float = 0.1) -> Terms:
    """ORPO (Hong et al., arXiv:2403.07691, eqs 6, 7). The likelihood is the completion's; TRL's includes the prompt."""
    chosen, rejected = pairs.per_token()
    values = pairs.nll() - beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))
    return Terms(values, beta * chosen, beta * rejected, pairs.nll())


@_registered(needs_reference=False, uses_lengths=True, accepts=SOFT_AND_MARGIN)
def cpo(pairs: Pairs, *, beta: float = 0.1, cpo_alpha: float = 1.0, label_smoothing: float = 0.0) -> Terms:
    """CPO (Xu et al., arXiv:2401.08417). The likelihood is a mean over tokens, as in TRL; the paper's is a sum."""
    chosen, rejected = beta * pairs.chosen, beta * pairs.rejected
    values = smoothed(pairs.above_margin(chosen - rejected), label_smoothing)
    return Terms(values + cpo_alpha * pairs.nll(), chosen, rejected, pairs.nll())


@_registered(needs_reference=False, uses_lengths=True, accepts=SOFT_AND_MARGIN)
def slic(pairs: Pairs, *, slic_delta: float = 1.0, slic_lambda: float = 1.0) -> Terms:
    """SLiC-HF (Zhao et al., arXiv:2305.10425, eq. 1), regularised towards the chosen completion, per token."""
    values = relu(slic_delta - pairs.above_margin(pairs.chosen - pairs.rejected))
    return Terms(values + slic_lambda * pairs.nll(), pairs.chosen, pairs.rejected, pairs.nll())


@_registered(needs_reference=False, uses_lengths=True)
def sft(pairs: Pairs) -> Terms:
    """Maximum likelihood of the chosen completion, per token. TRL's `sft` is a mean over all tokens of a batch."""
    return Terms(pairs.nll(), pairs.chosen, pairs.rejected, pairs.nll())


def _rewards(pairs: Pairs, beta: float) -> tuple[Tensor, Tensor]:
    chosen, rejected = pairs.log_ratios()
    return beta * chosen, beta * rejected


def _per_token(pairs: Pairs, scores: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    of_chosen, of_rejected = pairs.lengths()
    return scores[0] / of_chosen, scores[1] / of_rejected


def _log_odds(log_probability: Tensor) -> Tensor:
    """log(p / (1 - p)); p is kept just below 1, because the odds of 1 are infinite."""
    below_one = log_probability.clamp(max=-torch.finfo(log_probability.dtype).eps)
    return below_one - torch.log(-torch.expm1(below_one))
