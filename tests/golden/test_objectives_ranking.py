"""Losses of rankings and of single completions, against numbers worked out by hand and by enumeration."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from assent.objectives import centring_penalty, ranking_loss, score_loss

F64 = torch.float64
SCORES = tensor([1.0, -0.5, 2.0, 0.3], dtype=F64)


def value(name: str, scores: Any, ranks: Any, **options: Any) -> float:
    """Of one ranking."""
    one = torch.zeros(len(ranks), dtype=torch.long)
    values, _ = ranking_loss(name, scores=torch.as_tensor(scores, dtype=F64), ranks=tensor(ranks), group=one, **options)
    return values.item()


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_plackett_luce_by_hand() -> None:
    """Scores ln 3, ln 2, 0 in this order: 3/6 · 2/3 · 1/1 = 1/3."""
    assert value("plackett_luce", [math.log(3), math.log(2), 0.0], [1, 2, 3]) == pytest.approx(math.log(3), abs=1e-12)
    assert value("plackett_luce", [math.log(3), math.log(2), 0.0], [2, 3, 1]) == pytest.approx(
        -math.log(1 / 6 * 3 / 5), abs=1e-12
    )


def test_plackett_luce_is_a_distribution_over_orders() -> None:
    """The probabilities of all 4! rankings sum to 1."""
    orders = list(permutations(range(1, 5)))
    assert sum(math.exp(-value("plackett_luce", SCORES, order)) for order in orders) == pytest.approx(1.0, abs=1e-12)


def test_plackett_luce_ties_by_efron_by_hand() -> None:
    """π = 3, 2, 1; the first two tie for best: 3/6 · 2/(6 - 5/2) · 1/1, whichever comes first in the file."""
    expected = -math.log(3 / 6 * 2 / 3.5)
    scores = [math.log(3), math.log(2), 0.0]
    assert value("plackett_luce", scores, [1, 1, 2]) == pytest.approx(expected, abs=1e-12)
    assert value("plackett_luce", scores[::-1], [2, 1, 1]) == pytest.approx(expected, abs=1e-12)
    # Three that tie below one: 4/10 · then shares 1, 2/3, 1/3 of 6
    scores = [math.log(4), math.log(3), math.log(2), 0.0]
    expected = -math.log(4 / 10 * 3 / 6 * 2 / 4 * 1 / 2)
    assert value("plackett_luce", scores, [1, 5, 5, 5]) == pytest.approx(expected, abs=1e-12)


def test_efron_is_near_the_sum_over_the_orders_of_a_tie() -> None:
    """The exact likelihood of a tie sums over its orders; Efron's is that over 2!, to second order in the scores."""
    scores = 0.1 * SCORES
    exact = sum(math.exp(-value("plackett_luce", scores, ranks)) for ranks in ([1, 2, 3, 4], [2, 1, 3, 4]))
    assert math.exp(-value("plackett_luce", scores, [1, 1, 2, 3])) == pytest.approx(exact / 2, rel=2e-3)


@pytest.mark.parametrize("ranks", [[1, 2], [2, 1]])
def test_two_completions_are_bradley_terry(ranks: list[int]) -> None:
    values = {name: value(name, [0.7, -0.4], ranks) for name in ("bradley_terry", "all_pairs", "plackett_luce")}
    expected = softplus(-1.1 if ranks == [1, 2] else 1.1)
    assert values == {name: pytest.approx(expected, abs=1e-12) for name in values}


def test_bradley_terry_margin_soft_label_and_smoothing_by_hand() -> None:
    given: dict[str, Any] = {"scores": [0.7, -0.4], "ranks": [2, 1]}  # the second is better, by -1.1
    assert value("bradley_terry", **given, margin=tensor([0.4])) == pytest.approx(softplus(1.5), abs=1e-7)
    soft = 0.75 * softplus(1.1) + 0.25 * softplus(-1.1)
    assert value("bradley_terry", **given, chosen_probability=tensor([0.75])) == pytest.approx(soft, abs=1e-7)
    smooth = 0.9 * softplus(1.1) + 0.1 * softplus(-1.1)
    assert value("bradley_terry", **given, label_smoothing=0.1) == pytest.approx(smooth, abs=1e-12)
    both = 0.7 * softplus(1.1) + 0.3 * softplus(-1.1)  # 0.75 · 0.9 + 0.25 · 0.1
    found = value("bradley_terry", **given, chosen_probability=tensor([0.75], dtype=F64), label_smoothing=0.1)
    assert found == pytest.approx(both, abs=1e-12)


def test_all_pairs_is_the_mean_over_ordered_pairs() -> None:
    """Ranks 1, 2, 2 of scores 1, -0.5, 2: two ordered pairs, differences 1.5 and -1; the tied pair is left out."""
    assert value("all_pairs", SCORES[:3], [1, 2, 2]) == pytest.approx((softplus(-1.5) + softplus(1)) / 2, abs=1e-12)
    smoothed = [0.8 * softplus(-d) + 0.2 * softplus(d) for d in (1.5, -1.0)]
    assert value("all_pairs", SCORES[:3], [1, 2, 2], label_smoothing=0.2) == pytest.approx(sum(smoothed) / 2, abs=1e-12)


def test_ties_by_hand() -> None:
    """π = 4 and 1. Davidson, ν = 3: 4, 1 and 3 · 2 of 11. Rao and Kupper, θ = 2: 4/6, 1/9, and 3 · 4/6 · 1/9."""
    scores = [math.log(4), 0.0]
    davidson = {(1, 2): 4 / 11, (2, 1): 1 / 11, (1, 1): 6 / 11}
    rao_kupper = {(1, 2): 4 / 6, (2, 1): 1 / 9, (1, 1): 2 / 9}
    for ranks, probability in davidson.items():
        assert value("davidson", scores, list(ranks), tie_strength=3.0) == pytest.approx(-math.log(probability))
    for ranks, probability in rao_kupper.items():
        assert value("rao_kupper", scores, list(ranks), tie_threshold=2.0) == pytest.approx(-math.log(probability))
    assert sum(davidson.values()) == pytest.approx(1)
    assert sum(rao_kupper.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["davidson", "rao_kupper"])
def test_losses_of_ties_are_the_mean_over_all_pairs(name: str) -> None:
    pairs = [value(name, SCORES[list(p)], r) for p, r in (((0, 1), [1, 2]), ((0, 2), [1, 2]), ((1, 2), [1, 1]))]
    assert value(name, SCORES[:3], [1, 2, 2]) == pytest.approx(sum(pairs) / 3, abs=1e-12)


def test_metrics_count_ordered_pairs() -> None:
    """Ranks 1, 2, 2 of scores 1, 1, 2: a tie of scores and one wrong; a ranking of ties alone has no ordered pair."""
    _, metrics = ranking_loss(
        "plackett_luce",
        scores=tensor([1.0, 1.0, 2.0, 5.0, 7.0]),
        ranks=tensor([1, 2, 2, 1, 1]),
        group=tensor([0, 0, 0, 1, 1]),
    )
    assert metrics["accuracy"].tolist() == [0.25, 0.0]
    assert metrics["margin"].tolist() == [-0.5, 0.0]
    assert metrics["ordered"].tolist() == [1.0, 0.0]


def test_centring_has_the_right_sign() -> None:
    """(1 + 2)² of a comparison; 2/3 of the sum, squared, of three. Minimised, it brings the level to zero."""
    scores = tensor([1.0, 2.0, 0.5, 0.5, 2.0], dtype=F64, requires_grad=True)
    values = centring_penalty(scores, tensor([0, 0, 1, 1, 1]))
    torch.testing.assert_close(values.detach(), tensor([9.0, 4.0], dtype=F64))
    (gradient,) = torch.autograd.grad(values.sum(), scores)
    assert (gradient > 0).all()  # all scores are above zero, and a step against the gradient lowers them


def test_score_losses_by_hand() -> None:
    scores, targets = tensor([2.0, -1.0, 0.0, 1.0], dtype=F64), tensor([1.0, 1.0, 0.25, 0.25], dtype=F64)
    values, metrics = score_loss("mse", scores=scores, targets=targets)
    torch.testing.assert_close(values, tensor([1.0, 4.0, 0.0625, 0.5625], dtype=F64))
    torch.testing.assert_close(metrics["label_error"], values)
    values, metrics = score_loss("bce", scores=scores, targets=targets)
    expected = [softplus(-2), softplus(1), math.log(2), 0.25 * softplus(-1) + 0.75 * softplus(1)]
    torch.testing.assert_close(values, tensor(expected, dtype=F64))
    assert metrics["label_accuracy"].tolist() == [1.0, 0.0, 0.5, 0.0]


def test_what_a_loss_cannot_use_is_refused() -> None:
    three: dict[str, Tensor] = {"scores": SCORES[:3], "ranks": tensor([1, 2, 3]), "group": tensor([0, 0, 0])}
    with pytest.raises(ValueError, match="all_pairs or plackett_luce"):
        ranking_loss("bradley_terry", **three)
    with pytest.raises(ValueError, match="uses no margin"):
        ranking_loss("all_pairs", **three, margin=tensor([1.0]))
    with pytest.raises(ValueError, match="no ranking loss 'placket'"):
        ranking_loss("placket", **three)
    with pytest.raises(TypeError, match="beta"):
        ranking_loss("plackett_luce", **three, beta=0.1)
    with pytest.raises(ValueError, match="no score loss"):
        score_loss("hinge", scores=SCORES, targets=SCORES)
