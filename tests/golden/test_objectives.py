"""Objectives against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from assent.objectives import (
    AdaptiveKLController,
    Moments,
    as_rows,
    bradley_terry,
    gae,
    kl,
    masked_mean,
    ppo_loss,
    preference_loss,
    token_rewards,
    value_loss,
    whiten,
)

F64 = torch.float64


def close(actual: torch.Tensor, expected: object, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)


def test_dpo_row_by_hand() -> None:
    """beta 2, log-ratios 0.2 and 0.8: logit 2 * (0.2 - 0.8) = -1.2, probability 0.2315, loss ln(1 + e^1.2) = 1.463."""
    values, metrics = preference_loss(
        "sigmoid",
        beta=2.0,
        chosen=tensor([-4.8], dtype=F64),
        rejected=tensor([-3.2], dtype=F64),
        reference_chosen=tensor([-5.0], dtype=F64),
        reference_rejected=tensor([-4.0], dtype=F64),
    )
    assert math.exp(-values.item()) == pytest.approx(0.2315, abs=5e-5)
    assert values.item() == pytest.approx(math.log(1 + math.exp(1.2)), abs=1e-12)
    for name, expected in {"chosen": 0.4, "rejected": 1.6, "margins": -1.2, "accuracies": 0.0}.items():
        assert metrics[f"rewards/{name}"].item() == pytest.approx(expected, abs=1e-12)
    assert metrics["logps/chosen"].item() == -4.8


def test_dpo_soft_label_and_margin_by_hand() -> None:
    """Logit 0.4 - 0.1 (margin) = 0.3; with p = 0.75: 0.75 ln(1 + e^-0.3) + 0.25 ln(1 + e^0.3)."""
    values, _ = preference_loss(
        "sigmoid",
        beta=0.1,
        chosen=tensor([1.0], dtype=F64),
        rejected=tensor([-3.0], dtype=F64),
        reference_chosen=tensor([0.0], dtype=F64),
        reference_rejected=tensor([0.0], dtype=F64),
        margin=tensor([0.1], dtype=F64),
        chosen_probability=tensor([0.75], dtype=F64),
    )
    close(values, [0.75 * math.log1p(math.exp(-0.3)) + 0.25 * math.log1p(math.exp(0.3))])


def test_tied_rewards_are_half_right() -> None:
    zero = torch.zeros(1)
    _, metrics = preference_loss("sigmoid", chosen=zero, rejected=zero, reference_chosen=zero, reference_rejected=zero)
    assert metrics["rewards/accuracies"].item() == 0.5


def test_preference_loss_refuses_what_it_cannot_use() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="no preference loss 'sigmod'"):
        preference_loss("sigmod", chosen=one, rejected=one)
    with pytest.raises(ValueError, match="needs reference"):
        preference_loss("sigmoid", chosen=one, rejected=one)
    with pytest.raises(TypeError, match="gamma"):
        preference_loss("sigmoid", chosen=one, rejected=one, reference_chosen=one, reference_rejected=one, gamma=1.0)


def test_bradley_terry_by_hand() -> None:
    chosen, rejected = tensor([2.0, 0.0], dtype=F64), tensor([1.0, 0.0], dtype=F64)
    close(bradley_terry(chosen, rejected), [math.log1p(math.exp(-1)), math.log(2)])
    close(bradley_terry(chosen, rejected, tensor([3.0, 0.0], dtype=F64)), [math.log1p(math.exp(2)), math.log(2)])
    soft = bradley_terry(chosen, rejected, chosen_probability=tensor([0.0, 0.5], dtype=F64))
    close(soft, [math.log1p(math.exp(1)), math.log(2)])


def test_kl_estimators_by_hand() -> None:
    policy, reference = tensor([-1.0, -2.0], dtype=F64), tensor([-1.5, -1.0], dtype=F64)
    close(kl("k1", policy, reference), [0.5, -1.0])
    close(kl("k2", policy, reference), [0.125, 0.5])
    close(kl("k3", policy, reference), [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0])
    with pytest.raises(ValueError, match="k4"):
        kl("k4", policy, reference)


def test_kl_estimators_in_expectation() -> None:
    """Over a categorical p, E_p[k1] = E_p[k3] = KL(p || q), exactly; k2 is not that."""
    p, q = torch.softmax(torch.arange(5.0, dtype=F64), 0), torch.softmax(tensor([1.0, 0, 2, 0, 1], dtype=F64), 0)
    exact = (p * (p / q).log()).sum()
    for estimator in ("k1", "k3"):
        torch.testing.assert_close((p * kl(estimator, p.log(), q.log())).sum(), exact)
    assert abs((p * kl("k2", p.log(), q.log())).sum() - exact) > 0.01


def test_adaptive_controller_by_hand() -> None:
    controller = AdaptiveKLController(0.2, target=6.0, horizon=1000)
    assert controller.update(6.6, 100) == pytest.approx(0.2 * (1 + 0.1 * 100 / 1000))  # error 0.1
    assert controller.update(60.0, 100) == pytest.approx(0.2 * 1.01 * (1 + 0.2 * 0.1))  # error clipped to 0.2
    assert controller.update(-3.0, 100) == pytest.approx(0.2 * 1.01 * 1.02 * (1 - 0.2 * 0.1))  # clipped to -0.2
    assert controller.update(6.0, 100) == controller.value == pytest.approx(0.2 * 1.01 * 1.02 * 0.98)
    with pytest.raises(ValueError, match="too short"):
        controller.update(6.0, 5000)
    with pytest.raises(ValueError, match="above zero"):
        AdaptiveKLController(0.2, target=0.0, horizon=10)


# One PPO episode of five tokens beside one of three that was cut, written out.
LOGP = [[-1.0, -2.0, -0.5, -1.5, -0.1], [-1.0, -1.0, -2.0, 9.0, 9.0]]
REFERENCE = [[-1.2, -1.5, -0.5, -2.5, -0.2], [-2.0, -1.0, -1.0, -7.0, -7.0]]
VALUES = [[0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.0, 1.0, 9.0, 9.0]]
MASK = tensor([[True] * 5, [True, True, True, False, False]])
SCORES = tensor([2.0, -1.0], dtype=F64)


def episode_rewards() -> torch.Tensor:
    return token_rewards(kl("k1", tensor(LOGP, dtype=F64), tensor(REFERENCE, dtype=F64)), SCORES, MASK, kl_coef=0.5)


def test_five_token_episode_rewards() -> None:
    """k1 = (0.2, -0.5, 0, 1, 0.1): rewards -0.5 k1, the score 2 on token 5; the cut one's on token 3, not on a pad."""
    close(episode_rewards(), [[-0.1, 0.25, 0.0, -0.5, 2.0 - 0.05], [-0.5, 0.0, 0.5 - 1.0, 0.0, 0.0]])


def test_five_token_episode_gae() -> None:
    """gamma 0.9, lam 0.5, from the end:
    d5 = 1.95 - 0.5 = 1.45                      A5 = 1.45
    d4 = -0.5 + 0.9*0.5 - 0.4 = -0.45           A4 = -0.45 + 0.45*1.45 = 0.2025
    d3 = 0 + 0.9*0.4 - 0.3 = 0.06               A3 = 0.06 + 0.45*0.2025 = 0.151125
    d2 = 0.25 + 0.9*0.3 - 0.2 = 0.32            A2 = 0.32 + 0.45*0.151125 = 0.38800625
    d1 = -0.1 + 0.9*0.2 - 0.1 = -0.02           A1 = -0.02 + 0.45*0.38800625 = 0.1546028125
    The cut one bootstraps with 2.0 after its third token:
    d3 = -0.5 + 0.9*2 - 1 = 0.3                 A3 = 0.3
    d2 = 0 + 0.9*1 - 0 = 0.9                    A2 = 0.9 + 0.45*0.3 = 1.035
    d1 = -0.5 + 0.9*0 - 0.5 = -1.0              A1 = -1 + 0.45*1.035 = -0.53425
    """
    values = tensor(VALUES, dtype=F64)
    last = tensor([0.0, 2.0], dtype=F64)
    advantages, returns = gae(episode_rewards(), values, MASK, gamma=0.9, lam=0.5, last_values=last)
    expected = [[0.1546028125, 0.38800625, 0.151125, 0.2025, 1.45], [-0.53425, 1.035, 0.3, 0.0, 0.0]]
    close(advantages, expected)
    close(returns, [[a + v for a, v in zip(expected[0], VALUES[0], strict=True)], [-0.03425, 1.035, 1.3, 0.0, 0.0]])
    ended, _ = gae(episode_rewards(), values, MASK, gamma=0.9, lam=0.5)
    close(ended[1], [-1 + 0.45 * (0.9 + 0.45 * -1.5), 0.9 + 0.45 * -1.5, -1.5, 0.0, 0.0])


def test_gae_ends_in_returns_and_in_one_step_residuals() -> None:
    """lam 1: discounted return minus value. lam 0: the one-step residual."""
    rewards, values = torch.randn(3, 6, dtype=F64), torch.randn(3, 6, dtype=F64)
    mask, last = torch.ones(3, 6, dtype=torch.bool), torch.randn(3, dtype=F64)
    advantages, _ = gae(rewards, values, mask, gamma=0.9, lam=1.0, last_values=last)
    to_go = sum(0.9 ** (t - 2) * rewards[:, t] for t in range(2, 6)) + 0.9**4 * last
    torch.testing.assert_close(advantages[:, 2], to_go - values[:, 2])
    advantages, _ = gae(rewards, values, mask, gamma=0.9, lam=0.0, last_values=last)
    torch.testing.assert_close(advantages[:, 5], rewards[:, 5] + 0.9 * last - values[:, 5])


def test_gae_steps_over_what_does_not_count() -> None:
    """A hole in the middle, and padding on the left, change nothing; nor does what stands there."""
    rewards, values = torch.randn(1, 4, dtype=F64), torch.randn(1, 4, dtype=F64)
    dense, _ = gae(rewards, values, torch.ones(1, 4, dtype=torch.bool), gamma=0.9, lam=0.8)
    mask = tensor([[False, True, True, False, False, True, True, False]])
    wide_rewards, wide_values = torch.full((1, 8), torch.nan, dtype=F64), torch.full((1, 8), torch.nan, dtype=F64)
    wide_rewards[mask], wide_values[mask] = rewards[0], values[0]
    sparse, returns = gae(wide_rewards, wide_values, mask, gamma=0.9, lam=0.8)
    torch.testing.assert_close(sparse[mask], dense[0])
    assert not sparse[~mask].any()
    assert not returns[~mask].any()


def test_token_rewards_need_a_counted_token() -> None:
    with pytest.raises(ValueError, match="no counted token"):
        token_rewards(torch.zeros(1, 2), torch.ones(1), torch.zeros(1, 2, dtype=torch.bool), kl_coef=0.1)


def test_ppo_loss_by_hand() -> None:
    """Ratios 1.5, 1.5, 0.5, 0.5, 1.1 with eps 0.2: the minimum keeps what makes the policy worse, unclipped."""
    ratio = tensor([1.5, 1.5, 0.5, 0.5, 1.1], dtype=F64)
    advantages = tensor([1.0, -1.0, 1.0, -1.0, 2.0], dtype=F64)
    logprobs = ratio.log().requires_grad_()
    mask = torch.ones(5, dtype=torch.bool)
    values, metrics = ppo_loss(logprobs, torch.zeros(5, dtype=F64), advantages, mask, cliprange=0.2)
    close(values, [-1.2, 1.5, -0.5, 0.8, -2.2])
    close(metrics["policy/clipfrac_avg"], [1.0, 0.0, 0.0, 1.0, 0.0])
    close(metrics["val/ratio"], ratio.tolist())
    close(metrics["policy/approxkl_k1"], [-math.log(r) for r in ratio.tolist()])
    close(metrics["policy/approxkl_k3"], [r - 1 - math.log(r) for r in ratio.tolist()])
    close(metrics["policy/approxkl_avg"], [0.5 * math.log(r) ** 2 for r in ratio.tolist()])
    (gradient,) = torch.autograd.grad(values.sum(), logprobs)
    close(gradient, [0.0, 1.5, -0.5, 0.0, -2.2])  # -A * ratio where not clipped


def test_masked_tokens_do_nothing_even_where_they_overflow() -> None:
    logprobs = tensor([-1.0, 900.0], requires_grad=True)
    mask = tensor([True, False])
    values, metrics = ppo_loss(logprobs, torch.zeros(2), tensor([1.0, torch.nan]), mask, cliprange=0.2)
    assert values[1] == 0
    assert all(metric[1] == 0 for metric in metrics.values())
    values.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad[1] == 0
    assert torch.isfinite(logprobs.grad).all()
    predicted = tensor([1.0, torch.inf], requires_grad=True)
    loss, _ = value_loss(predicted, tensor([1.0, 0.0]), tensor([2.0, torch.nan]), mask, cliprange_value=0.2)
    loss.sum().backward()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [-1.0, 0.0]


def test_value_loss_by_hand() -> None:
    """V 1.0 from 0.5, R 2: clip(V) = 0.7, (0.7 - 2)^2 = 1.69 > 1. V 1 from 0.5, R 0: 1 > 0.49. V inside: both equal."""
    values, old = tensor([1.0, 1.0, 0.6], dtype=F64), tensor([0.5, 0.5, 0.5], dtype=F64)
    returns, mask = tensor([2.0, 0.0, 1.0], dtype=F64), torch.ones(3, dtype=torch.bool)
    loss, metrics = value_loss(values, old, returns, mask, cliprange_value=0.2)
    close(loss, [0.845, 0.5, 0.08])
    close(metrics["val/clipfrac_avg"], [1.0, 0.0, 0.0])
    close(metrics["val/error"], [1.0, 1.0, 0.16])
    close(value_loss(values, old, returns, mask, cliprange_value=0.0)[0], [0.5, 0.5, 0.08])


def test_whiten_by_hand() -> None:
    """1, 2, 6 counted: mean 3, variance (4 + 1 + 9) / 3."""
    x, mask = tensor([1.0, 2.0, 6.0, torch.nan], dtype=F64), tensor([True, True, True, False])
    root = math.sqrt(14 / 3)
    close(whiten(x, mask, mean=True, std=True), [-2 / root, -1 / root, 3 / root, 0.0], atol=1e-8)
    close(whiten(x, mask, mean=False, std=True), [1 / root, 2 / root, 6 / root, 0.0], atol=1e-8)
    close(whiten(x, mask, mean=True, std=False), [-2.0, -1.0, 3.0, 0.0])
    constant = torch.full((4,), 1.1)
    close(whiten(constant, mask, mean=False, std=True), [1.1, 1.1, 1.1, 0.0], atol=1e-6)
    close(whiten(constant, mask, mean=True, std=True), [0.0] * 4, atol=1e-6)


def test_moments_add_up_over_parts() -> None:
    x, mask = torch.randn(6, 5) + 100, torch.rand(6, 5) > 0.3
    parts = [Moments.of(x[i : i + 2], mask[i : i + 2]) for i in range(0, 6, 2)]
    added = parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(
        whiten(x, mask, mean=True, std=True), whiten(x, mask, mean=True, std=True, moments=added), atol=1e-6, rtol=0
    )


def test_padded_rows_give_the_flat_values_back() -> None:
    flat, sequence = tensor([1.0, 2, 3, 4]), tensor([0, 2, 2, 2])
    rows, mask = as_rows(flat, sequence, 3)
    assert rows.tolist() == [[1, 0, 0], [0, 0, 0], [2, 3, 4]]
    assert rows[mask].tolist() == flat.tolist()


def test_masked_mean_divides_by_the_count_given() -> None:
    x, mask = tensor([1.0, 3.0, torch.nan]), tensor([True, True, False])
    assert masked_mean(x, mask) == 2.0
    assert masked_mean(x, mask, count=8) == 0.5
