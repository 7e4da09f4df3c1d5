"""The declared losses of comparisons.

In the equations a log-ratio is log(policy / reference) of a completion (f' of the ratio where an f-divergence is
chosen), D is the chosen completion's log-ratio minus the rejected one's, NLL the chosen completion's negative
log-likelihood per token.
"""

from __future__ import annotations

import math

from assent.config.loss_declaration import Choice, Hyperparameter, LossDeclaration

MAX_EXPONENT = 80.0
"""exp of this is finite in float32, with room for factors and sums."""
_MAX_SQUARED_EXPONENT = MAX_EXPONENT / 2

_SOFT = frozenset({"chosen_probability"})
_SOFT_AND_MARGIN = frozenset({"chosen_probability", "margin"})

_BETA = Hyperparameter(0.1, 0.0, math.inf, "Strength of the pull to the reference.", open=True)
_SMOOTHING = Hyperparameter(0.0, 0.0, 0.5, "Probability that a label is wrong (cDPO).")
_DIVERGENCE: dict[str, Hyperparameter | Choice] = {
    "f_divergence_type": Choice(
        "reverse_kl",
        ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
        "Divergence that keeps the policy at the reference (f-DPO, arXiv:2309.16240): the log-ratio becomes f'(ratio).",
    ),
    "f_alpha_divergence_coef": Hyperparameter(
        0.5,
        0.0,
        1.0,
        "alpha of f'(u) = (1 - u^-alpha) / alpha, as in the paper; TRL 1.16 computes with 1 - alpha.",
        open=True,
        only_with=("f_divergence_type", "alpha_divergence"),
    ),
}


def _ln2(**_: object) -> float:
    return math.log(2.0)


def _largest(
    *, f_divergence_type: str = "reverse_kl", f_alpha_divergence_coef: float = 0.5, **_: object
) -> float | None:
    """The log-ratio up to which a divergence's exponential is finite."""
    rates = {"forward_kl": 1.0, "alpha_divergence": f_alpha_divergence_coef}
    return MAX_EXPONENT / rates[f_divergence_type] if f_divergence_type in rates else None


def _largest_squared(**hyperparameters: object) -> float | None:
    largest = _largest(**hyperparameters)  # type: ignore[arg-type]
    return None if largest is None else largest * _MAX_SQUARED_EXPONENT / MAX_EXPONENT


_WITH_REFERENCE = (
    LossDeclaration(
        name="sigmoid",
        summary="DPO: Bradley–Terry likelihood of the implicit rewards; cDPO with label_smoothing, ODPO with margins.",
        hyperparameters={"beta": _BETA, "label_smoothing": _SMOOTHING, **_DIVERGENCE},
        paper="Rafailov et al. 2023, arXiv:2305.18290, eq. 7 (offset by a margin: Amini et al. 2024, arXiv:2402.10571; "
        "smoothing: Mitchell 2023, A note on DPO with noisy preferences)",
        equation="-(1 - eps) log sigma(x) - eps log sigma(-x), x = beta * D - margin",
        needs_reference=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=_ln2,
        max_log_ratio=_largest,
    ),
    LossDeclaration(
        name="sigmoid_norm",
        summary="DPO with log-ratios per token.",
        hyperparameters={"beta": _BETA, **_DIVERGENCE},
        paper="Lambert et al. 2024 (Tülu 3), arXiv:2411.15124, eq. 6",
        equation="-log sigma(beta * (log-ratio of chosen / its length - log-ratio of rejected / its length) - margin)",
        needs_reference=True,
        uses_lengths=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=_ln2,
        max_log_ratio=_largest,
    ),
    LossDeclaration(
        name="robust",
        summary="Robust DPO: unbiased when a known share of the labels is flipped.",
        hyperparameters={
            "beta": _BETA,
            "label_smoothing": Hyperparameter(0.1, 0.0, 0.5, "Probability that a label is flipped.", open=True),
            **_DIVERGENCE,
        },
        paper="Chowdhury et al. 2024, arXiv:2403.00409",
        equation="(-(1 - eps) log sigma(x) + eps log sigma(-x)) / (1 - 2 eps), x = beta * D - margin",
        needs_reference=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=_ln2,
        max_log_ratio=_largest,
    ),
    LossDeclaration(
        name="ipo",
        summary="IPO: regresses the difference of log-ratios per token on 1 / (2 beta), which limits its growth.",
        hyperparameters={"beta": _BETA, **_DIVERGENCE},
        paper="Azar et al. 2023, arXiv:2310.12036, eq. 17, computed per token, as the authors (and TRL) do",
        equation="(log-ratio of chosen / its length - log-ratio of rejected / its length - 1 / (2 beta))^2",
        needs_reference=True,
        uses_lengths=True,
        accepts=_SOFT,
        zero_margin_value=lambda *, beta=0.1, **_: 1.0 / (4.0 * beta**2),
        max_log_ratio=_largest_squared,
    ),
    LossDeclaration(
        name="hinge",
        summary="Hinge loss of the implicit rewards: no gradient beyond a margin of one.",
        hyperparameters={"beta": _BETA, **_DIVERGENCE},
        paper="Liu et al. 2023 (RSO), arXiv:2309.06657; SLiC: Zhao et al. 2023, arXiv:2305.10425",
        equation="max(0, 1 - beta * D + margin)",
        needs_reference=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=lambda **_: 1.0,
        max_log_ratio=_largest,
    ),
    LossDeclaration(
        name="exo_pair",
        summary="EXO: reverse KL from the policy's preference to the smoothed label.",
        hyperparameters={
            "beta": _BETA,
            "label_smoothing": Hyperparameter(1e-3, 0.0, 0.5, "The label means 1 - eps to eps.", open=True),
            **_DIVERGENCE,
        },
        paper="Ji et al. 2024, arXiv:2402.00856, eq. 16",
        equation="q log(q / (1 - eps)) + (1 - q) log((1 - q) / eps), q = sigma(beta * D - margin)",
        needs_reference=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=lambda *, label_smoothing=1e-3, **_: (
            -math.log(2.0) - 0.5 * math.log(label_smoothing * (1.0 - label_smoothing))
        ),
        max_log_ratio=_largest,
    ),
    LossDeclaration(
        name="discopop",
        summary="DiscoPOP: a loss found by a language model. At small tau it first lowers the margin.",
        hyperparameters={
            "beta": _BETA,
            "discopop_tau": Hyperparameter(0.05, 1e-3, 1.0, "Temperature of the transition between the two parts."),
            **_DIVERGENCE,
        },
        paper="Lu et al. 2024, arXiv:2406.08414, eq. 5",
        equation="-sigma(-x / tau) log sigma(x) + sigma(x / tau) exp(-x), x = beta * D - margin",
        needs_reference=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=lambda **_: 0.5 * (math.log(2.0) + 1.0),
        zero_margin_gradient=(1, -1),
        max_log_ratio=_largest,
    ),
    LossDeclaration(
        name="nca_pair",
        summary="NCA: noise contrastive alignment of likelihoods. It keeps the chosen completion likely.",
        hyperparameters={"beta": _BETA},
        paper="Chen et al. 2024, arXiv:2402.05369, of two completions",
        equation="-log sigma(r_chosen) - log sigma(-r_chosen) / 2 - log sigma(-r_rejected) / 2, r = beta * log-ratio",
        needs_reference=True,
        accepts=_SOFT,
        zero_margin_value=lambda **_: 2.0 * math.log(2.0),
    ),
    LossDeclaration(
        name="bco_pair",
        summary="BCO: a classifier of chosen and rejected completions, by the implicit reward minus its mean.",
        hyperparameters={"beta": _BETA},
        paper="Jung et al. 2024, arXiv:2404.04656; its delta, a running mean there, is the step's mean here",
        equation="-log sigma(r_chosen - delta) - log sigma(delta - r_rejected), r = beta * log-ratio, "
        "delta = mean(r_chosen + r_rejected) / 2",
        needs_reference=True,
        accepts=_SOFT,
        scope="step",
        zero_margin_value=lambda **_: 2.0 * math.log(2.0),
    ),
    LossDeclaration(
        name="sppo_hard",
        summary="SPPO: regresses each log-ratio on its share of the win, which approximates the Nash policy.",
        hyperparameters={"beta": _BETA},
        paper="Wu et al. 2024, arXiv:2405.00675, eq. 4.7 with eta = 1 / beta and P = 1 for a win",
        equation="(log-ratio of chosen - 1 / (2 beta))^2 + (log-ratio of rejected + 1 / (2 beta))^2",
        needs_reference=True,
        accepts=_SOFT,
        zero_margin_value=lambda *, beta=0.1, **_: 1.0 / (2.0 * beta**2),
    ),
    LossDeclaration(
        name="aot",
        summary="AOT for pairs: as distributions in the step, the policy's log-odds dominate the reference's.",
        hyperparameters={"beta": _BETA, "label_smoothing": _SMOOTHING},
        paper="Melnyk et al. 2024, arXiv:2406.05882, paired, with the logistic loss",
        equation="sigmoid's, D = sorted(chosen - rejected) - sorted(reference's chosen - rejected)",
        needs_reference=True,
        row_weights=False,
        scope="step",
        zero_margin_value=_ln2,
    ),
    LossDeclaration(
        name="aot_unpaired",
        summary="AOT: as distributions in the step, log-ratios of chosen dominate those of rejected completions.",
        hyperparameters={"beta": _BETA, "label_smoothing": _SMOOTHING},
        paper="Melnyk et al. 2024, arXiv:2406.05882, unpaired, with the logistic loss",
        equation="sigmoid's, D = sorted(log-ratios of chosen) - sorted(log-ratios of rejected)",
        needs_reference=True,
        row_weights=False,
        scope="step",
        zero_margin_value=_ln2,
    ),
    LossDeclaration(
        name="apo_zero",
        summary="APO-zero: chosen up, rejected down. For chosen completions better than the policy's own.",
        hyperparameters={"beta": _BETA},
        paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, plus 1",
        equation="1 - sigma(r_chosen) + sigma(r_rejected), r = beta * log-ratio",
        needs_reference=True,
        accepts=_SOFT,
        zero_margin_value=lambda **_: 1.0,
    ),
    LossDeclaration(
        name="apo_down",
        summary="APO-down: both down, rejected further. For chosen completions worse than the policy's own.",
        hyperparameters={"beta": _BETA},
        paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8, plus 1",
        equation="sigma(r_chosen) + 1 - sigma(r_chosen - r_rejected), r = beta * log-ratio",
        needs_reference=True,
        accepts=_SOFT,
        zero_margin_value=lambda **_: 1.0,
        zero_margin_gradient=(0, 1),
    ),
    LossDeclaration(
        name="dpop",
        summary="DPO-Positive: DPO with a penalty when the chosen completion is less likely than under the reference.",
        hyperparameters={
            "beta": _BETA,
            "dpop_lambda": Hyperparameter(50.0, 0.0, math.inf, "Weight of the penalty, inside the logit."),
        },
        paper="Pal et al. 2024 (Smaug), arXiv:2402.13228, eq. 3",
        equation="-log sigma(beta * (D - lambda * max(0, -log-ratio of chosen)) - margin)",
        needs_reference=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=_ln2,
    ),
    LossDeclaration(
        name="rpo",
        summary="RPO: DPO plus the chosen completion's negative log-likelihood per token.",
        hyperparameters={
            "beta": _BETA,
            "rpo_alpha": Hyperparameter(1.0, 0.0, math.inf, "Weight of the likelihood term."),
        },
        paper="Pang et al. 2024, arXiv:2404.19733, eq. 1",
        equation="-log sigma(beta * D - margin) - alpha * log policy(chosen) / length of chosen",
        needs_reference=True,
        uses_lengths=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=_ln2,
        nll_weight=lambda *, rpo_alpha=1.0, **_: rpo_alpha,
    ),
)

_WITHOUT_REFERENCE = (
    LossDeclaration(
        name="simpo",
        summary="SimPO: the log-likelihood per token is the reward. The rewards must differ by a margin.",
        hyperparameters={
            "beta": Hyperparameter(2.0, 0.0, math.inf, "Scale of the log-likelihood per token.", open=True),
            "simpo_gamma": Hyperparameter(1.0, 0.0, math.inf, "Margin by which the rewards must differ."),
            "label_smoothing": _SMOOTHING,
        },
        paper="Meng et al. 2024, arXiv:2405.14734, eq. 6",
        equation="-log sigma(beta * (log policy(chosen) / its length - log policy(rejected) / its length) "
        "- gamma - margin)",
        needs_reference=False,
        uses_lengths=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=lambda *, simpo_gamma=1.0, label_smoothing=0.0, **_: (
            (1.0 - label_smoothing) * simpo_gamma + math.log1p(math.exp(-simpo_gamma))
        ),
    ),
    LossDeclaration(
        name="orpo",
        summary="ORPO: the chosen completion's negative log-likelihood plus a log odds ratio, both per token.",
        hyperparameters={"beta": Hyperparameter(0.1, 0.0, math.inf, "Weight of the odds ratio (the paper's lambda).")},
        paper="Hong et al. 2024, arXiv:2403.07691, eqs 6 and 7; the likelihood is of completion tokens alone",
        equation="NLL - beta * log sigma(log odds(chosen) - log odds(rejected)), "
        "odds = p / (1 - p), p = policy^(1 / length)",
        needs_reference=False,
        uses_lengths=True,
        accepts=_SOFT,
        zero_margin_value=lambda *, beta=0.1, **_: beta * math.log(2.0),
        nll_weight=lambda **_: 1.0,
    ),
    LossDeclaration(
        name="cpo",
        summary="CPO: DPO against a uniform reference, plus the chosen completion's negative log-likelihood per token.",
        hyperparameters={
            "beta": Hyperparameter(0.1, 0.0, math.inf, "Scale of the log-likelihoods.", open=True),
            "cpo_alpha": Hyperparameter(1.0, 0.0, math.inf, "Weight of the likelihood term."),
            "label_smoothing": _SMOOTHING,
        },
        paper="Xu et al. 2024, arXiv:2401.08417; its likelihood term is a sum over tokens, here (as in TRL) a mean",
        equation="-log sigma(beta * (log policy(chosen) - log policy(rejected)) - margin) + alpha * NLL",
        needs_reference=False,
        uses_lengths=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=_ln2,
        nll_weight=lambda *, cpo_alpha=1.0, **_: cpo_alpha,
    ),
    LossDeclaration(
        name="slic",
        summary="SLiC-HF: hinge loss of log-likelihoods, plus the chosen completion's negative one per token.",
        hyperparameters={
            "slic_delta": Hyperparameter(1.0, 0.0, math.inf, "Margin, in nats, beyond which there is no gradient."),
            "slic_lambda": Hyperparameter(1.0, 0.0, math.inf, "Weight of the likelihood term."),
        },
        paper="Zhao et al. 2023, arXiv:2305.10425, eq. 1; the regularising target is the chosen completion, per token",
        equation="max(0, delta + margin - log policy(chosen) + log policy(rejected)) + lambda * NLL",
        needs_reference=False,
        uses_lengths=True,
        accepts=_SOFT_AND_MARGIN,
        zero_margin_value=lambda *, slic_delta=1.0, **_: slic_delta,
        nll_weight=lambda *, slic_lambda=1.0, **_: slic_lambda,
    ),
    LossDeclaration(
        name="sft",
        summary="The chosen completion's negative log-likelihood per token, to combine with other losses.",
        paper="maximum likelihood; the mean over each pair's tokens, where TRL's is over those of its batch",
        equation="-log policy(chosen) / length of chosen",
        needs_reference=False,
        uses_lengths=True,
        accepts=_SOFT,
        zero_margin_value=lambda **_: 0.0,
        zero_margin_gradient=(-1, 0),
        nll_weight=lambda **_: 1.0,
    ),
)

DECLARED_PAIRS = _WITH_REFERENCE + _WITHOUT_REFERENCE
"""In the order of the documentation."""
