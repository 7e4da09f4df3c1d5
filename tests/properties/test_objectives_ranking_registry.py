"""Properties of every registered loss of rankings and of single completions."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, tensor

from assent.config import losses
from assent.config.losses import LossDeclaration
from assent.objectives import ranking_loss, score_loss
from assent.objectives.ranking import RANKING_LOSSES, SCORE_LOSSES

F64 = torch.float64
every_loss = pytest.mark.parametrize("loss", losses.RANKING_LOSSES.values(), ids=losses.RANKING_LOSSES.keys())


def rankings(loss: LossDeclaration) -> tuple[Tensor, Tensor]:
    """Ranks and groups: three rankings of unequal size with ties, or three comparisons."""
    if "many" not in loss.accepts:
        return tensor([1, 2, 2, 1, 1, 2]), tensor([0, 0, 1, 1, 2, 2])
    return tensor([2, 1, 4, 3, 1, 2, 1, 2, 2]), tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])


def values(loss: LossDeclaration, scores: Tensor, ranks: Tensor, group: Tensor) -> Tensor:
    return ranking_loss(loss.name, scores=scores, ranks=ranks, group=group, **loss.resolve({}))[0]


def test_declarations_and_functions_agree() -> None:
    assert set(losses.RANKING_LOSSES) == set(RANKING_LOSSES)
    assert set(losses.SCORE_LOSSES) == set(SCORE_LOSSES)
    for name, loss in losses.RANKING_LOSSES.items():
        parameters = list(inspect.signature(RANKING_LOSSES[name]).parameters.values())[1:]
        assert {p.name: p.default for p in parameters} == {n: h.default for n, h in loss.hyperparameters.items()}
    assert not any(loss.hyperparameters for loss in losses.SCORE_LOSSES.values())


@every_loss
@pytest.mark.parametrize("number", [2, 5])
def test_value_at_equal_scores_is_the_declared_one(loss: LossDeclaration, number: int) -> None:
    if number > 2 and "many" not in loss.accepts:
        pytest.skip("comparisons alone")
    found = values(loss, torch.full((number,), 0.7, dtype=F64), torch.arange(number), torch.zeros(number).long())
    expected = loss.zero_margin_value(num_completions=number, **loss.resolve({}))
    assert found.item() == pytest.approx(expected, abs=1e-12)


@every_loss
def test_the_gradient_is_that_of_differences(loss: LossDeclaration) -> None:
    ranks, group = rankings(loss)
    scores = torch.randn(len(ranks), generator=torch.Generator().manual_seed(0), dtype=F64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: values(loss, s, ranks, group), (scores,))


@every_loss
def test_gradient_raises_the_best_and_lowers_the_worst(loss: LossDeclaration) -> None:
    scores = torch.zeros(2, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(values(loss, scores, tensor([2, 1]), tensor([0, 0])).sum(), scores)
    assert gradient[1] < 0 < gradient[0]


@every_loss
def test_order_of_rows_level_of_scores_and_other_rankings_change_nothing(loss: LossDeclaration) -> None:
    ranks, group = rankings(loss)
    scores = torch.randn(len(ranks), dtype=F64)
    whole = values(loss, scores, ranks, group)
    order = torch.randperm(len(ranks))
    torch.testing.assert_close(values(loss, scores[order], ranks[order], group[order]), whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(values(loss, scores + 30, ranks * 7, group), whole, atol=1e-12, rtol=0)
    for g in range(3):
        alone = values(loss, scores[group == g], ranks[group == g], torch.zeros_like(group[group == g]))
        torch.testing.assert_close(alone[0], whole[g], atol=1e-12, rtol=0)
    assert len(values(loss, scores[:0], ranks[:0], group[:0])) == 0


@every_loss
def test_far_out_the_loss_and_its_gradient_are_finite(loss: LossDeclaration) -> None:
    ranks, group = rankings(loss)
    scores = (1e4 * (-1.0) ** torch.arange(len(ranks))).requires_grad_()
    found = values(loss, scores, ranks, group)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert torch.isfinite(found).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", losses.SCORE_LOSSES)
def test_score_losses_are_least_at_their_label(name: str) -> None:
    scores = torch.linspace(-3, 3, 61, dtype=F64, requires_grad=True)
    target = torch.sigmoid(scores.detach()[40]) if name == "bce" else scores.detach()[40].clone()
    found, _ = score_loss(name, scores=scores, targets=target.expand(61))
    assert found.argmin() == 40
    assert torch.autograd.gradcheck(lambda s: score_loss(name, scores=s, targets=target.expand(61))[0], (scores,))
    zero, _ = score_loss(name, scores=torch.zeros(1), targets=torch.ones(1))
    assert zero.item() == pytest.approx(losses.SCORE_LOSSES[name].zero_margin_value(label=1.0))
