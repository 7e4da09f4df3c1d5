"""Properties of every registered loss of comparisons and of thumbs."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from assent.config import pair_losses
from assent.config.losses import PREFERENCE_LOSSES as DECLARED
from assent.config.losses import THUMBS_LOSSES as DECLARED_THUMBS
from assent.config.losses import Choice, LossDeclaration
from assent.objectives import pairs
from assent.objectives.preference import PREFERENCE_LOSSES, preference_loss
from assent.objectives.ranking import bradley_terry
from assent.objectives.thumbs import THUMBS_LOSSES, thumbs_loss

every_loss = pytest.mark.parametrize("loss", DECLARED.values(), ids=DECLARED.keys())
every_thumbs_loss = pytest.mark.parametrize("loss", DECLARED_THUMBS.values(), ids=DECLARED_THUMBS.keys())

BASE = -20.0
"""Log-probability of each completion where policy and reference agree."""


def values(
    loss: LossDeclaration, chosen: Tensor, rejected: Tensor, hyperparameters: dict[str, Any] | None = None, **more: Any
) -> Tensor:
    """The loss at log-ratios `chosen` and `rejected`; at BASE plus them where there is no reference."""
    inputs: dict[str, Any] = {"chosen": BASE + chosen, "rejected": BASE + rejected}
    if loss.needs_reference:
        inputs |= {f"reference_{side}": torch.full_like(inputs[side], BASE) for side in ("chosen", "rejected")}
    if loss.uses_lengths:
        inputs |= {f"{side}_lengths": torch.full_like(chosen, 5.0) for side in ("chosen", "rejected")}
    return preference_loss(loss.name, **{**inputs, **more}, **loss.resolve(hyperparameters or {}))[0]


def draw(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = 3 * torch.randn(2, count, generator=generator, dtype=torch.float64)
    return chosen, rejected


def test_declarations_and_functions_agree() -> None:
    assert set(DECLARED) == set(PREFERENCE_LOSSES)
    for name, loss in DECLARED.items():
        implemented = PREFERENCE_LOSSES[name]
        parameters = list(inspect.signature(implemented.function).parameters.values())[1:]
        assert {p.name: p.default for p in parameters} == {n: h.default for n, h in loss.hyperparameters.items()}
        assert implemented.needs_reference == loss.needs_reference
        assert implemented.uses_lengths == loss.uses_lengths
        assert implemented.accepts == loss.accepts
    assert set(DECLARED_THUMBS) == set(THUMBS_LOSSES)
    for name, loss in DECLARED_THUMBS.items():
        parameters = list(inspect.signature(THUMBS_LOSSES[name]).parameters.values())[3:]
        assert {p.name: p.default for p in parameters} == {n: h.default for n, h in loss.hyperparameters.items()}
    assert pairs.MAX_EXPONENT == pair_losses.MAX_EXPONENT


@every_loss
def test_value_at_zero_margin_is_the_declared_one(loss: LossDeclaration) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    for given in ({}, {name: _other(loss, name) for name in loss.hyperparameters if name != "f_alpha_divergence_coef"}):
        known = loss.resolve(given)
        expected = loss.zero_margin_value(**known) + loss.nll_weight(**known) * -BASE / 5
        assert values(loss, zero, zero, given).item() == pytest.approx(expected, abs=1e-12)


@every_loss
def test_signs_of_the_gradient_at_zero_margin_are_the_declared_ones(loss: LossDeclaration) -> None:
    chosen, rejected = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    gradients = torch.autograd.grad(values(loss, chosen, rejected).sum(), (chosen, rejected), materialize_grads=True)
    assert tuple(int(torch.sign(g)) for g in gradients) == loss.zero_margin_gradient


@every_loss
def test_the_gradient_is_that_of_differences(loss: LossDeclaration) -> None:
    if loss.name == "bco_pair":
        pytest.skip("no gradient flows through its delta, by definition: see the golden test")
    chosen, rejected = (each.requires_grad_() for each in draw(4))
    assert torch.autograd.gradcheck(lambda c, r: values(loss, c, r), (chosen, rejected))


@every_loss
def test_a_win_costs_less_than_a_defeat(loss: LossDeclaration) -> None:
    ten = tensor([10.0])
    assert values(loss, ten, -ten) < values(loss, -ten, ten)


@every_loss
def test_swapping_the_pair_is_swapping_the_label(loss: LossDeclaration) -> None:
    if "chosen_probability" not in loss.accepts:
        pytest.skip("takes no soft labels")
    a, b = draw(8)
    p = torch.rand(8, dtype=torch.float64)
    one_way = values(loss, a, b, chosen_probability=p)
    torch.testing.assert_close(one_way, values(loss, b, a, chosen_probability=1 - p), atol=1e-12, rtol=0)
    certain = values(loss, a, b, chosen_probability=torch.ones_like(p))
    torch.testing.assert_close(certain, values(loss, a, b), atol=1e-12, rtol=0)
    expected = p * values(loss, a, b) + (1 - p) * values(loss, b, a)
    torch.testing.assert_close(one_way, expected, atol=1e-12, rtol=0)
    assert not torch.allclose(values(loss, a, b), values(loss, b, a))


@every_loss
def test_pairs_see_one_another_where_the_scope_is_the_step(loss: LossDeclaration) -> None:
    a, b = draw(8)
    alone = torch.cat([values(loss, a[i : i + 1], b[i : i + 1]) for i in range(8)])
    assert torch.allclose(values(loss, a, b), alone, atol=1e-12, rtol=0) == (loss.scope == "row")


@every_loss
def test_pairs_of_the_step_may_come_in_any_order(loss: LossDeclaration) -> None:
    a, b = draw(8)
    order = torch.randperm(8)
    torch.testing.assert_close(values(loss, a, b).sum(), values(loss, a[order], b[order]).sum(), atol=1e-10, rtol=0)


@every_loss
def test_far_out_the_loss_and_its_gradient_are_finite(loss: LossDeclaration) -> None:
    bound = loss.max_log_ratio(**loss.resolve({})) or 1e4
    shift = 0.0 if loss.needs_reference else -bound  # log-probabilities are below 0
    chosen = (tensor([bound, -bound, bound, -bound]) + shift).requires_grad_()
    rejected = (tensor([bound, -bound, -bound, bound]) + shift).requires_grad_()
    result = values(loss, chosen, rejected)
    gradients = torch.autograd.grad(result.sum(), (chosen, rejected), materialize_grads=True)
    assert torch.isfinite(result).all()
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("divergence", ["forward_kl", "alpha_divergence"])
@every_loss
def test_beyond_an_exponential_it_raises(loss: LossDeclaration, divergence: str) -> None:
    if "f_divergence_type" not in loss.hyperparameters:
        pytest.skip("has no exponential")
    given = {"f_divergence_type": divergence}
    bound = loss.max_log_ratio(**loss.resolve(given))
    assert bound is not None
    chosen = tensor([-bound, bound]).requires_grad_()
    rejected = tensor([bound, -bound])
    result = values(loss, chosen, rejected, given)
    assert torch.isfinite(result).all()
    assert torch.isfinite(torch.autograd.grad(result.sum(), chosen)[0]).all()
    with pytest.raises(OverflowError, match=divergence):
        values(loss, chosen - 0.1, rejected, given)


@pytest.mark.parametrize("given", ["margin", "chosen_probability"])
@every_loss
def test_an_input_has_an_effect_or_is_refused(loss: LossDeclaration, given: str) -> None:
    a, b = draw(4)
    row_input = torch.full_like(a, 0.7)
    if given in loss.accepts:
        assert (values(loss, a, b, **{given: row_input}) != values(loss, a, b)).any()
    else:
        with pytest.raises(ValueError, match=f"cannot use {given}"):
            values(loss, a, b, **{given: row_input})


@every_loss
def test_a_reference_and_lengths_are_needed_or_refused(loss: LossDeclaration) -> None:
    a, b = draw(4)
    if loss.needs_reference:
        with pytest.raises(ValueError, match="needs reference_chosen"):
            values(loss, a, b, reference_rejected=None)
    else:
        with pytest.raises(ValueError, match="has no reference"):
            values(loss, a, b, reference_chosen=a, reference_rejected=b)
    if loss.uses_lengths:
        with pytest.raises(ValueError, match="needs chosen_lengths"):
            values(loss, a, b, chosen_lengths=None)
        longer = {"chosen_lengths": torch.full_like(a, 7.0)}
        assert (values(loss, a, b, **longer) != values(loss, a, b)).all()


@every_loss
def test_every_hyperparameter_has_an_effect(loss: LossDeclaration) -> None:
    a, b = draw(8)
    for name, known in loss.hyperparameters.items():
        beside = {} if known.only_with is None else {known.only_with[0]: known.only_with[1]}
        changed = {**beside, name: _other(loss, name)}
        assert (values(loss, a, b, changed) != values(loss, a, b, beside)).any(), name


def _other(loss: LossDeclaration, name: str) -> float | str:
    """A value in range that is not the default."""
    known = loss.hyperparameters[name]
    if isinstance(known, Choice):
        return known.choices[-2]
    return min(known.default * 1.1 + 0.01, 0.99 * known.maximum)


@every_thumbs_loss
def test_thumbs_at_zero_margin(loss: LossDeclaration) -> None:
    desirable = tensor([True, False, False, False])
    zero = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    given = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    result = thumbs(loss, zero, desirable, given)
    assert result.mean().item() == pytest.approx(loss.zero_margin_value(**given, desirable_fraction=0.25), abs=1e-12)
    (gradient,) = torch.autograd.grad(result.sum(), zero)
    assert torch.equal(gradient < 0, desirable)


@every_thumbs_loss
def test_thumbs_gradcheck_and_far_out(loss: LossDeclaration) -> None:
    desirable = tensor([True, False, True, False])
    assert torch.autograd.gradcheck(lambda x: thumbs(loss, x, desirable), draw(4)[0].requires_grad_())
    far = tensor([1e4, 1e4, -1e4, -1e4]).requires_grad_()
    result = thumbs(loss, far, desirable)
    assert result.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert torch.isfinite(torch.autograd.grad(result.sum(), far)[0]).all()


@every_thumbs_loss
def test_every_hyperparameter_of_thumbs_has_an_effect(loss: LossDeclaration) -> None:
    log_ratios, desirable = draw(4)[0], tensor([True, False, True, False])
    for name in loss.hyperparameters:
        changed = thumbs(loss, log_ratios, desirable, {name: _other(loss, name)})
        assert (changed != thumbs(loss, log_ratios, desirable)).any(), name


def test_a_baseline_is_needed_or_refused() -> None:
    rows = {"logprobs": torch.zeros(2), "reference_logprobs": torch.zeros(2), "desirable": tensor([True, False])}
    for name, loss in DECLARED_THUMBS.items():
        needed = "kl_baseline" in loss.accepts
        with pytest.raises(ValueError, match="needs kl_baseline" if needed else "has no baseline"):
            thumbs_loss(name, **rows, kl_baseline=None if needed else torch.zeros(()))


def thumbs(loss: LossDeclaration, log_ratios: Tensor, desirable: Tensor, given: dict[str, Any] | None = None) -> Tensor:
    baseline = {"kl_baseline": 0.0} if "kl_baseline" in loss.accepts else {}
    reference = torch.full_like(log_ratios, BASE)
    rows = {"logprobs": BASE + log_ratios, "reference_logprobs": reference, "desirable": desirable}
    return thumbs_loss(loss.name, **rows, **baseline, **loss.resolve(given or {}))[0]


def test_bradley_terry_is_smooth_and_ignores_a_common_shift() -> None:
    a, b = (torch.randn(6, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(bradley_terry, (a, b))
    torch.testing.assert_close(bradley_terry(a + 50, b + 50), bradley_terry(a, b), atol=1e-12, rtol=0)
    far = bradley_terry(tensor([-1e4]), tensor([1e4]))
    assert far.item() == 2e4
    assert bradley_terry(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(math.log(2))
