"""A row of every loss of comparisons and of thumbs, worked out by hand from its paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import e, exp, log, log1p
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from assent.config.losses import PREFERENCE_LOSSES
from assent.objectives import kto_baseline, preference_loss, thumbs_loss

F64 = torch.float64
ROW = {  # log-ratios 2 and -1, D = 3; with beta = 1/2 the rewards are 1 and -1/2
    "chosen": -10.0,
    "rejected": -14.0,
    "reference_chosen": -12.0,
    "reference_rejected": -13.0,
    "chosen_lengths": 4.0,
    "rejected_lengths": 7.0,
}


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


def nls(x: float) -> float:
    """-log sigma(x)."""
    return log1p(exp(-x))


def inputs(name: str, rows: dict[str, Any], **more: Any) -> dict[str, Tensor]:
    declared = PREFERENCE_LOSSES[name]
    if not declared.needs_reference:
        rows = {key: value for key, value in rows.items() if not key.startswith("reference")}
    if not declared.uses_lengths:
        rows = {key: value for key, value in rows.items() if not key.endswith("lengths")}
    return {key: tensor(value, dtype=F64).reshape(-1) for key, value in {**rows, **more}.items()}


def close(values: Tensor, expected: Any) -> None:
    torch.testing.assert_close(values, tensor(expected, dtype=F64).reshape(-1), atol=1e-12, rtol=0)


ODDS = [exp(-2.5) / (1 - exp(-2.5)), exp(-2) / (1 - exp(-2))]
BY_HAND: list[tuple[str, dict[str, Any], float]] = [
    ("sigmoid", {"beta": 0.5}, nls(1.5)),
    ("sigmoid", {"beta": 0.5, "label_smoothing": 0.2}, 0.8 * nls(1.5) + 0.2 * nls(-1.5)),
    ("sigmoid", {"beta": 0.5, "f_divergence_type": "forward_kl"}, nls(0.5 * (e - exp(-2)))),
    (
        "sigmoid",
        {"beta": 0.5, "f_divergence_type": "js_divergence"},
        nls(0.5 * (log(2 * e**2 / (1 + e**2)) - log(2 / e / (1 + 1 / e)))),
    ),
    (
        "sigmoid",
        {"beta": 0.5, "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.25},
        nls(0.5 * (1 - exp(-0.5)) / 0.25 - 0.5 * (1 - exp(0.25)) / 0.25),
    ),
    ("sigmoid_norm", {"beta": 0.5}, nls(0.5 * (2 / 4 + 1 / 7))),
    ("robust", {"beta": 0.5, "label_smoothing": 0.2}, (0.8 * nls(1.5) - 0.2 * nls(-1.5)) / 0.6),
    ("ipo", {"beta": 0.5}, (2 / 4 + 1 / 7 - 1) ** 2),
    ("hinge", {"beta": 0.25}, 0.25),
    ("hinge", {"beta": 0.5}, 0.0),
    (
        "exo_pair",
        {"beta": 0.5, "label_smoothing": 0.1},
        sigma(1.5) * log(sigma(1.5) / 0.9) + sigma(-1.5) * log(sigma(-1.5) / 0.1),
    ),
    ("discopop", {"beta": 0.5, "discopop_tau": 0.5}, sigma(-3) * nls(1.5) + sigma(3) * exp(-1.5)),
    ("nca_pair", {"beta": 0.5}, nls(1) + nls(-1) / 2 + nls(0.5) / 2),
    ("bco_pair", {"beta": 0.5}, nls(0.75) + nls(0.75)),  # alone: delta = 1/4
    ("sppo_hard", {"beta": 0.25}, (2 - 2) ** 2 + (-1 + 2) ** 2),
    ("aot", {"beta": 0.5, "label_smoothing": 0.2}, 0.8 * nls(1.5) + 0.2 * nls(-1.5)),  # alone: cDPO
    ("aot_unpaired", {"beta": 0.5}, nls(1.5)),
    ("apo_zero", {"beta": 0.5}, 1 - sigma(1) + sigma(-0.5)),
    ("apo_down", {"beta": 0.5}, sigma(1) + 1 - sigma(1.5)),
    ("dpop", {"beta": 0.5, "dpop_lambda": 2.0}, nls(1.5)),
    ("rpo", {"beta": 0.5, "rpo_alpha": 2.0}, nls(1.5) + 2 * 10 / 4),
    ("simpo", {"beta": 2.0, "simpo_gamma": 0.5}, nls(2 * (-2.5 + 2) - 0.5)),
    ("simpo", {"beta": 2.0, "simpo_gamma": 0.5, "label_smoothing": 0.1}, 0.9 * nls(-1.5) + 0.1 * nls(1.5)),
    ("orpo", {"beta": 0.5}, 2.5 + 0.5 * nls(log(ODDS[0] / ODDS[1]))),
    ("cpo", {"beta": 0.5, "cpo_alpha": 0.5}, nls(2) + 0.5 * 2.5),
    ("slic", {"slic_delta": 5.0, "slic_lambda": 0.5}, 1 + 0.5 * 2.5),
    ("sft", {}, 2.5),
]


@pytest.mark.parametrize(("name", "hyperparameters", "expected"), BY_HAND, ids=[case[0] for case in BY_HAND])
def test_every_loss_has_its_value_by_hand(name: str, hyperparameters: dict[str, Any], expected: float) -> None:
    values, _ = preference_loss(name, **inputs(name, ROW), **hyperparameters)
    close(values, expected)


def test_every_loss_has_a_row() -> None:
    assert {name for name, *_ in BY_HAND} == set(PREFERENCE_LOSSES)


def test_margins_move_the_loss_by_hand() -> None:
    for name, hyperparameters, expected in [
        ("sigmoid", {"beta": 0.5}, nls(1.5 - 0.7)),
        ("sigmoid_norm", {"beta": 0.5}, nls(0.5 * (2 / 4 + 1 / 7) - 0.7)),
        ("robust", {"beta": 0.5, "label_smoothing": 0.2}, (0.8 * nls(0.8) - 0.2 * nls(-0.8)) / 0.6),
        ("hinge", {"beta": 0.5}, 1 - 0.8),
        (
            "exo_pair",
            {"beta": 0.5, "label_smoothing": 0.5},
            log(2) + sum(p * log(p) for p in (sigma(0.8), sigma(-0.8))),
        ),
        ("discopop", {"beta": 0.5, "discopop_tau": 0.8}, sigma(-1) * nls(0.8) + sigma(1) * exp(-0.8)),
        ("dpop", {"beta": 0.5}, nls(0.8)),
        ("rpo", {"beta": 0.5}, nls(0.8) + 2.5),
        ("simpo", {"beta": 2.0, "simpo_gamma": 0.5}, nls(-1.5 - 0.7)),
        ("cpo", {"beta": 0.5}, nls(2 - 0.7) + 2.5),
        ("slic", {"slic_delta": 5.0}, 1.7 + 2.5),
    ]:
        close(preference_loss(name, **inputs(name, ROW, margin=0.7), **hyperparameters)[0], expected)


def test_a_soft_label_is_the_expectation_of_both() -> None:
    """The expectation over the label; with a margin, the other way round it is a margin against the first."""
    soft = inputs("sigmoid", ROW, chosen_probability=0.25)
    close(preference_loss("sigmoid", **soft, beta=0.5)[0], 0.25 * nls(1.5) + 0.75 * nls(-1.5))
    close(
        preference_loss("sigmoid", **soft, margin=tensor([0.7], dtype=F64), beta=0.5)[0],
        0.25 * nls(0.8) + 0.75 * nls(-0.8),
    )
    # where a likelihood is added, it is that of the one that wins
    soft = inputs("rpo", ROW, chosen_probability=0.25)
    close(preference_loss("rpo", **soft, beta=0.5)[0], 0.25 * (nls(1.5) + 2.5) + 0.75 * (nls(-1.5) + 2.0))


def test_sppo_with_soft_labels_has_the_gradient_of_the_paper() -> None:
    """arXiv:2405.00675, eq. 4.7: (log-ratio - (P - 1/2) / beta)^2, P = 0.7 and 0.3."""
    given = inputs("sppo_hard", ROW, chosen_probability=0.7)
    chosen, rejected = given["chosen"].requires_grad_(), given["rejected"].requires_grad_()
    values, _ = preference_loss("sppo_hard", **given, beta=0.5)
    gradients = torch.autograd.grad(values.sum(), (chosen, rejected))
    close(torch.cat(gradients), [2 * (2 - 0.2 / 0.5), 2 * (-1 + 0.2 / 0.5)])


def test_dpop_lowers_the_logit_where_the_chosen_completion_lost_likelihood() -> None:
    row = {**ROW, "chosen": -13.0, "rejected": -16.0}  # log-ratios -1 and -3
    close(preference_loss("dpop", **inputs("dpop", row), beta=0.5, dpop_lambda=2.0)[0], log(2))


STEP = {  # log-ratios 2, -4 of chosen and -1, 2 of rejected
    "chosen": [-10.0, -16.0],
    "rejected": [-14.0, -13.0],
    "reference_chosen": [-12.0, -12.0],
    "reference_rejected": [-13.0, -15.0],
}


def test_aot_sorts_the_step() -> None:
    # policy's chosen - rejected 4, -3; the reference's 1, 3: sorted -3, 4 against 1, 3
    close(preference_loss("aot", **inputs("aot", STEP), beta=0.5)[0], [nls(-2), nls(0.5)])
    # chosen -4, 2 against rejected -1, 2
    close(preference_loss("aot_unpaired", **inputs("aot_unpaired", STEP), beta=0.5)[0], [nls(-1.5), nls(0)])


def test_bco_shifts_by_the_mean_of_the_step_and_holds_it_fixed() -> None:
    given = inputs("bco_pair", STEP)
    chosen = given["chosen"].requires_grad_()
    values, metrics = preference_loss("bco_pair", **given, beta=0.5)
    # rewards 1, -2 and -1/2, 1: their mean is delta = -1/8
    close(values, [nls(1.125) + nls(0.375), nls(-1.875) + nls(-1.125)])
    (gradient,) = torch.autograd.grad(values.sum(), chosen)
    close(gradient, [-0.5 * sigma(-1.125), -0.5 * sigma(1.875)])
    close(metrics["rewards/chosen"], [1, -2])


DIVERGENCES: dict[str, Callable[[Tensor], Tensor]] = {  # f of arXiv:2309.16240, table 1, alpha = 0.3
    "reverse_kl": lambda u: u * u.log(),
    "forward_kl": lambda u: -u.log(),
    "js_divergence": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
    "alpha_divergence": lambda u: (u**0.7 - 0.7 * u - 0.3) / (0.3 * -0.7),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_rewards_under_a_divergence_are_the_derivative_of_f(name: str) -> None:
    log_ratios = torch.linspace(-3, 3, 7, dtype=F64)
    ratio = torch.cat([log_ratios, torch.zeros(1, dtype=F64)]).exp().requires_grad_()
    (slope,) = torch.autograd.grad(DIVERGENCES[name](ratio).sum(), ratio)
    zero = torch.zeros_like(log_ratios)
    coefficient = {"f_alpha_divergence_coef": 0.3} if name == "alpha_divergence" else {}
    _, metrics = preference_loss(
        "sigmoid",
        chosen=log_ratios,
        rejected=zero,
        reference_chosen=zero,
        reference_rejected=zero,
        beta=1.0,
        f_divergence_type=name,
        **coefficient,
    )
    close(metrics["rewards/chosen"], (slope[:-1] - slope[-1]).tolist())
    close(metrics["rewards/margins"], (slope[:-1] - slope[-1]).tolist())


def test_robust_is_unbiased() -> None:
    """Its mean over labels flipped with probability eps is the loss of the true labels (arXiv:2403.00409)."""
    known = {"beta": 0.5, "label_smoothing": 0.2}
    flipped = inputs("robust", ROW, chosen_probability=0.8)
    close(preference_loss("robust", **flipped, **known)[0], nls(1.5))


def test_the_likelihood_is_a_metric_where_the_loss_contains_it() -> None:
    for name, declared in PREFERENCE_LOSSES.items():
        _, metrics = preference_loss(name, **inputs(name, ROW))
        if declared.nll_weight(**declared.resolve({})) == 0:
            assert "nll_loss" not in metrics
        else:
            close(metrics["nll_loss"], 2.5)


def test_orpo_is_finite_where_a_completion_is_certain() -> None:
    certain = {"chosen": tensor([0.0]), "rejected": tensor([-14.0])}
    lengths = {"chosen_lengths": tensor([4]), "rejected_lengths": tensor([7])}
    values, _ = preference_loss("orpo", **certain, **lengths)
    assert 0 <= values.item() < 1e-6
    assert math.isfinite(preference_loss("orpo", **{**certain, "rejected": tensor([0.0])}, **lengths)[0].item())


def test_kto_has_its_values_by_hand() -> None:
    rows = {"logprobs": tensor([-10.0, -14.0], dtype=F64), "reference_logprobs": tensor([-12.0, -13.0], dtype=F64)}
    known = {"beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    given = {**rows, "desirable": tensor([True, False])}
    values, metrics = thumbs_loss("kto", **given, kl_baseline=tensor(0.5), **known)
    close(values, [1.5 * (1 - sigma(0.5 * (2 - 0.5))), 0.5 * (1 - sigma(0.5 * (0.5 + 1)))])
    close(metrics["rewards/chosen"], 1.0)
    close(metrics["rewards/rejected"], -0.5)
    close(metrics["logps/chosen"], -10.0)
    values, _ = thumbs_loss("apo_zero_unpaired", **given, **known)
    close(values, [1.5 * (1 - sigma(1)), 0.5 * sigma(-0.5)])
    with pytest.raises(ValueError, match="no thumbs loss 'kot'"):
        thumbs_loss("kot", **given)


def test_kto_baseline_is_the_mean_log_ratio_but_not_below_0() -> None:
    zero = torch.zeros(2)
    above = kto_baseline(tensor([2.0, -1.0], requires_grad=True), zero)
    assert above.item() == 0.5
    assert not above.requires_grad
    assert kto_baseline(tensor([1.0, -3.0]), zero).item() == 0.0
