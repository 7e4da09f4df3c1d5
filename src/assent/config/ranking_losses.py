"""The declared losses of rankings, and of single completions with a label."""

from __future__ import annotations

import math

from assent.config.loss_declaration import Hyperparameter, LossDeclaration

_LABEL_SMOOTHING = Hyperparameter(0.0, 0.0, 0.5, "Probability that a label is reversed; at 1/2 nothing is learned.")

DECLARED_RANKINGS = (
    LossDeclaration(
        name="bradley_terry",
        summary="Comparisons: the better of two scores higher. It uses margins and soft labels that the data has.",
        hyperparameters={"label_smoothing": _LABEL_SMOOTHING},
        paper="Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1; margin: Touvron et al. 2023, "
        "arXiv:2307.09288, eq. 2",
        equation="-log sigma(s_chosen - s_rejected - margin)",
        needs_reference=False,
        zero_margin_value=lambda **_: math.log(2.0),
        accepts=frozenset({"margin", "chosen_probability"}),
    ),
    LossDeclaration(
        name="all_pairs",
        summary="Rankings: Bradley–Terry on every pair. Each ranking weighs the same, however many pairs it has.",
        hyperparameters={"label_smoothing": _LABEL_SMOOTHING},
        paper="Ouyang et al. 2022, arXiv:2203.02155, eq. 1",
        equation="mean over pairs i above j of -log sigma(s_i - s_j)",
        needs_reference=False,
        zero_margin_value=lambda **_: math.log(2.0),
        accepts=frozenset({"many"}),
    ),
    LossDeclaration(
        name="plackett_luce",
        summary="A whole ranking: the best is drawn first, then the best of the rest. Ties as in Efron.",
        paper="Luce 1959; Plackett 1975; DPO: Rafailov et al. 2023, arXiv:2305.18290, appendix A.3; ties: Efron 1977",
        equation="sum over k of log(sum over those not yet placed of exp s) - s_k",
        needs_reference=False,
        zero_margin_value=lambda num_completions=2, **_: math.lgamma(num_completions + 1),
        accepts=frozenset({"many", "tied"}),
    ),
    LossDeclaration(
        name="davidson",
        summary="All pairs of a ranking, with a tie as an outcome of its own. Between equals, nu is the odds of a "
        "tie to a win of one of them.",
        hyperparameters={
            "tie_strength": Hyperparameter(1.0, 0.0, math.inf, "nu: how likely ties are between equals.", open=True)
        },
        paper="Davidson 1970, JASA 65",
        equation="P(i above j) = e^s_i / (e^s_i + e^s_j + nu e^((s_i + s_j)/2)), the rest is a tie",
        needs_reference=False,
        zero_margin_value=lambda tie_strength=1.0, **_: math.log(2.0 + tie_strength),
        accepts=frozenset({"many", "tied"}),
    ),
    LossDeclaration(
        name="rao_kupper",
        summary="All pairs of a ranking, where a difference below the threshold log theta is a tie.",
        hyperparameters={
            "tie_threshold": Hyperparameter(
                1.5, 1.0, math.inf, "theta: a win needs odds of about this; lower odds are a tie.", open=True
            )
        },
        paper="Rao and Kupper 1967, JASA 62",
        equation="P(i above j) = e^s_i / (e^s_i + theta e^s_j), P(tie) = (theta^2 - 1) P(i above j) P(j above i)",
        needs_reference=False,
        zero_margin_value=lambda tie_threshold=1.5, **_: math.log(1.0 + tie_threshold),
        accepts=frozenset({"many", "tied"}),
    ),
)

DECLARED_SCORES = (
    LossDeclaration(
        name="mse",
        summary="Regression: the score predicts the completion's rating.",
        paper="least squares",
        equation="(s - label)^2",
        needs_reference=False,
        zero_margin_value=lambda label=0.0, **_: label**2,
    ),
    LossDeclaration(
        name="bce",
        summary="Classification: sigma(score) is the probability that a completion (or a step) is good.",
        paper="logistic regression; steps: Lightman et al. 2023, arXiv:2305.20050",
        equation="-label log sigma(s) - (1 - label) log sigma(-s)",
        needs_reference=False,
        zero_margin_value=lambda **_: math.log(2.0),
    ),
)
