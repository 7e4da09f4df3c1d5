"""Properties of every registered loss of comparisons."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor, tensor

from assent.config.losses import PREFERENCE_LOSSES as DECLARED
from assent.config.losses import LossDeclaration
from assent.objectives.preference import PREFERENCE_LOSSES, preference_loss
from assent.objectives.ranking import bradley_terry

every_loss = pytest.mark.parametrize("loss", DECLARED.values(), ids=DECLARED.keys())


def values(loss: LossDeclaration, chosen: Tensor, rejected: Tensor, **inputs: Tensor) -> Tensor:
    """The loss at log-ratios `chosen` and `rejected`, with its default hyperparameters."""
    zero = torch.zeros_like(chosen)
    reference = {"reference_chosen": zero, "reference_rejected": zero} if loss.needs_reference else {}
    if loss.uses_lengths:
        inputs = {"chosen_lengths": zero + 5, "rejected_lengths": zero + 7, **inputs}
    return preference_loss(loss.name, chosen=chosen, rejected=rejected, **reference, **inputs, **loss.resolve({}))[0]


def test_declarations_and_functions_agree() -> None:
    assert set(DECLARED) == set(PREFERENCE_LOSSES)
    for name, loss in DECLARED.items():
        parameters = list(inspect.signature(PREFERENCE_LOSSES[name]).parameters.values())[1:]
        assert {p.name: p.default for p in parameters} == {n: h.default for n, h in loss.hyperparameters.items()}


@every_loss
def test_value_at_zero_margin_is_the_declared_one(loss: LossDeclaration) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    hyperparameters = loss.resolve({})
    assert values(loss, zero, zero).item() == pytest.approx(loss.zero_margin_value(**hyperparameters), abs=1e-12)


@every_loss
def test_gradient_at_zero_margin_raises_chosen_and_lowers_rejected(loss: LossDeclaration) -> None:
    chosen, rejected = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    to_chosen, to_rejected = torch.autograd.grad(values(loss, chosen, rejected).sum(), (chosen, rejected))
    assert to_chosen.item() < 0 < to_rejected.item()


@every_loss
def test_gradcheck(loss: LossDeclaration) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda c, r: values(loss, c, r), (chosen, rejected))


@every_loss
def test_swapping_the_pair_is_swapping_the_label(loss: LossDeclaration) -> None:
    if loss.uses_lengths:
        pytest.skip("lengths are the pair's own")
    a, b = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    p = torch.rand(8, dtype=torch.float64)
    torch.testing.assert_close(
        values(loss, a, b, chosen_probability=p), values(loss, b, a, chosen_probability=1 - p), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(
        values(loss, a, b, chosen_probability=torch.ones_like(p)), values(loss, a, b), atol=1e-12, rtol=0
    )
    assert not torch.allclose(values(loss, a, b), values(loss, b, a))


@every_loss
def test_pairs_do_not_see_one_another(loss: LossDeclaration) -> None:
    if loss.scope == "step":
        pytest.skip("looks at the whole step")
    a, b = torch.randn(8), torch.randn(8)
    assert torch.equal(values(loss, a, b)[2:5], values(loss, a[2:5], b[2:5]))


@every_loss
def test_finite_far_out(loss: LossDeclaration) -> None:
    bound = 1e4 if loss.max_log_ratio is None else loss.max_log_ratio
    chosen = tensor([bound, -bound, bound, -bound], requires_grad=True)
    rejected = tensor([bound, -bound, -bound, bound], requires_grad=True)
    result = values(loss, chosen, rejected)
    gradients = torch.autograd.grad(result.sum(), (chosen, rejected))
    assert torch.isfinite(result).all()
    assert all(torch.isfinite(g).all() for g in gradients)
    assert result[3] > result[2]


def test_bradley_terry_properties() -> None:
    a, b = (torch.randn(6, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(bradley_terry, (a, b))
    torch.testing.assert_close(bradley_terry(a + 50, b + 50), bradley_terry(a, b), atol=1e-12, rtol=0)
    far = bradley_terry(tensor([-1e4]), tensor([1e4]))
    assert far.item() == 2e4
    assert bradley_terry(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(math.log(2))
