"""The parts of RLHF's algorithms against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, tensor

from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.objectives import (
    gae,
    group_advantages,
    kl_loss,
    leave_one_out,
    policy_gradient_loss,
    ppo_loss,
    shaped_rewards,
)
from assent.objectives.advantages import ADVANTAGES, Episodes
from assent.stages.online_objectives import PolicyObjective

F64 = torch.float64
ALL = torch.ones(4, dtype=torch.bool)


def close(actual: Tensor, expected: object, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)


def test_clip_higher_and_dual_clip_by_hand() -> None:
    """Ratios 1.25, 1.4, 4, 0.5 and advantages 1, 1, -1, -1; the clip is [0.8, 1.3], the dual clip 3.

    1.25 is inside; 1.4 counts as 1.3; min keeps the 4, which the dual clip cuts to 3; 0.5 counts as 0.8.
    """
    ratio, advantages = tensor([1.25, 1.4, 4.0, 0.5], dtype=F64), tensor([1.0, 1.0, -1.0, -1.0], dtype=F64)
    old = torch.zeros(4, dtype=F64)
    logprobs = ratio.log().requires_grad_()
    values, metrics = ppo_loss(logprobs, old, advantages, ALL, cliprange=0.2, cliprange_high=0.3, dual_clip=3.0)
    close(values, [-1.25, -1.3, 3.0, 0.8])
    close(metrics["policy/clipfrac_avg"], [0.0, 1.0, 1.0, 1.0])
    (gradient,) = torch.autograd.grad(values.sum(), logprobs)
    close(gradient, [-1.25, 0.0, 0.0, 0.0])
    close(ppo_loss(logprobs, old, advantages, ALL, cliprange=0.2)[0], [-1.2, -1.2, 4.0, 0.8])
    unclipped, metrics = ppo_loss(logprobs, old, advantages, ALL, cliprange=0.0)
    close(unclipped, [-1.25, -1.4, 4.0, 0.5])
    close(metrics["policy/clipfrac_avg"], [0.0] * 4)


def test_policy_gradient_by_hand() -> None:
    """-A log pi, and its gradient -A; what is masked adds nothing, whatever it is."""
    logprobs = tensor([-1.0, -2.0, -0.5, torch.nan], dtype=F64, requires_grad=True)
    mask = tensor([True, True, True, False])
    values, metrics = policy_gradient_loss(
        logprobs, tensor([-1.0, -2.0, -1.0, 0.0], dtype=F64), tensor([2.0, -1.0, 0.5, 1.0], dtype=F64), mask
    )
    close(values, [2.0, -2.0, 0.25, 0.0])
    close(metrics["val/ratio"], [1.0, 1.0, math.exp(0.5), 0.0])
    close(metrics["policy/approxkl_avg"], [0.0, 0.0, 0.125, 0.0])
    (gradient,) = torch.autograd.grad(values.sum(), logprobs)
    close(gradient, [-2.0, 1.0, -0.5, 0.0])


def test_group_advantages_by_hand() -> None:
    """Groups (1, 2, 6) and (4, 4, 4): mean 3, deviation sqrt((4 + 1 + 9) / 2); all six: mean 3.5, sqrt(15.5 / 5)."""
    scores, prompt = tensor([1.0, 2, 6, 4, 4, 4], dtype=F64), tensor([0, 0, 0, 1, 1, 1])
    deviation = math.sqrt(7) + 1e-4
    close(group_advantages(scores, prompt), [-2 / deviation, -1 / deviation, 3 / deviation, 0, 0, 0])
    batch = math.sqrt(15.5 / 5) + 1e-4
    close(group_advantages(scores, prompt, scale_rewards="batch"), [-2 / batch, -1 / batch, 3 / batch, 0, 0, 0])
    close(group_advantages(scores, prompt, scale_rewards="none"), [-2.0, -1, 3, 0, 0, 0])
    with pytest.raises(ValueError, match="no scale 'groups'"):
        group_advantages(scores, prompt, scale_rewards="groups")


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_group_that_does_not_vary_has_no_advantage_at_any_size(scale: str) -> None:
    """In float32 the mean of equal scores may be their neighbour, and its distance is divided by one as small."""
    for score in (0.1, 1000.1, -123456.7, 1e30):
        for size in (3, 5, 6, 7):
            scores, prompt = torch.full((2 * size,), score), torch.arange(2).repeat_interleave(size)
            close(group_advantages(scores, prompt, scale_rewards=scale), [0.0] * (2 * size))
            close(leave_one_out(scores, prompt), [0.0] * (2 * size))


def test_scores_far_out_differ_by_their_deviation_still() -> None:
    """Their squares are beyond float32: 1 and -1 times 1e30, deviation sqrt(2) times it."""
    scores, prompt = tensor([1e30, -1e30]), tensor([0, 0])
    for scale in ("group", "batch"):
        close(group_advantages(scores, prompt, scale_rewards=scale), [math.sqrt(0.5), -math.sqrt(0.5)], atol=1e-6)


def test_leave_one_out_by_hand() -> None:
    """(1, 2, 6): 1 - (2 + 6) / 2 = -3, 2 - 3.5 = -1.5, 6 - 1.5 = 4.5; (0, 4): -4 and 4."""
    close(leave_one_out(tensor([1.0, 0, 2, 4, 6], dtype=F64), tensor([0, 1, 0, 1, 0])), [-3.0, -4, -1.5, 4, 4.5])
    with pytest.raises(ValueError, match="leave-one-out needs two"):
        leave_one_out(tensor([1.0, 2, 3]), tensor([0, 0, 1]))


REWARDS = tensor([[0.5, 1.0, 2.0], [1.0, -1.0, 0.0]], dtype=F64)
MASK = tensor([[True, True, True], [True, True, False]])
VALUES = tensor([[0.2, 0.4, 0.6], [0.1, 0.3, 9.0]], dtype=F64)


def episodes(**fields: Tensor) -> Episodes:
    return Episodes(rewards=REWARDS, mask=MASK, prompt=tensor([0, 0]), **fields)


def test_one_step_advantages_by_hand() -> None:
    """gamma 0.5: r + gamma V' - V, the last one's V' being 0, or 2 where the second was cut. The target is A + V."""
    fields = {"values": VALUES, "last_values": tensor([0.0, 2.0], dtype=F64)}
    advantages, returns = ADVANTAGES["td"](episodes(**fields), gamma=0.5)
    close(advantages, [[0.5 + 0.2 - 0.2, 1.0 + 0.3 - 0.4, 1.4], [1.0 + 0.15 - 0.1, -1.0 + 1.0 - 0.3, 0.0]])
    assert returns is not None
    close(returns, [[0.7, 1.3, 2.0], [1.15, 0.0, 0.0]])


def test_shaped_rewards_by_hand() -> None:
    """gamma 0.5: r + gamma Phi' - Phi; behind the end it is zero, or 2 where the second goes on."""
    last = tensor([0.0, 2.0], dtype=F64)
    shaped = shaped_rewards(REWARDS, VALUES, MASK, gamma=0.5, last_potentials=last)
    close(shaped, [[0.5 + 0.2 - 0.2, 1.0 + 0.3 - 0.4, 1.4], [1.0 + 0.15 - 0.1, -1.0 + 1.0 - 0.3, 0.0]])
    close(shaped_rewards(REWARDS, VALUES, MASK, gamma=0.5)[1], [1.05, -1.3, 0.0])


def test_shaping_is_a_critic_that_starts_at_the_potential() -> None:
    """Advantages of shaped rewards under V - Phi are those of the plain ones under V (Wiewiora 2003), every lambda."""
    generator = torch.Generator().manual_seed(0)
    values, potentials = (torch.randn(2, 3, generator=generator, dtype=F64) for _ in range(2))
    shaped = shaped_rewards(REWARDS, potentials, MASK, gamma=0.9)
    for lam in (0.0, 0.5, 1.0):
        plain, _ = gae(REWARDS, values, MASK, gamma=0.9, lam=lam)
        moved, _ = gae(shaped, values - potentials, MASK, gamma=0.9, lam=lam)
        torch.testing.assert_close(moved, plain)


def test_whitened_returns_by_hand() -> None:
    """gamma 0.5: to come (1.5, 2, 2) and (0.5, -1); mean 1, variance (0.25 + 1 + 1 + 0.25 + 4) / 5 = 1.3."""
    advantages, returns = ADVANTAGES["whitened_return"](episodes(), gamma=0.5)
    root = math.sqrt(1.3 + 1e-8)
    close(advantages, [[0.5 / root, 1 / root, 1 / root], [-0.5 / root, -2 / root, 0.0]])
    assert returns is None


def test_sums_of_rewards_are_spread_over_the_tokens() -> None:
    """Sums 3.5 and 0: leave-one-out 3.5 and -3.5; the group's mean 1.75. Padding gets nothing."""
    alone, _ = ADVANTAGES["leave_one_out"](episodes())
    close(alone, [[3.5, 3.5, 3.5], [-3.5, -3.5, 0.0]])
    group, _ = ADVANTAGES["group"](episodes(), scale_rewards="none")
    close(group, [[1.75, 1.75, 1.75], [-1.75, -1.75, 0.0]])


def test_kl_in_the_loss_by_hand() -> None:
    """log-ratio 0.5 to the reference, ratio 2 to the policy that sampled; gradient with respect to log pi.

    k2: 2 * 0.5^2 / 2, gradient 2 * 0.5. k3: 2 * (e^-0.5 - 1 + 0.5), gradient 2 * (1 - e^-0.5). k3+: k3's value with
    k2's gradient.
    """
    reference, old = tensor([-1.5], dtype=F64), tensor([-1.0 - math.log(2)], dtype=F64)
    k3 = 2 * (math.exp(-0.5) - 0.5)
    expected = {"k2": (0.25, 1.0), "k3": (k3, 2 * (1 - math.exp(-0.5))), "k3+": (k3, 1.0)}
    for estimator, (value, slope) in expected.items():
        logprobs = tensor([-1.0], dtype=F64, requires_grad=True)
        penalty = kl_loss(estimator, logprobs, reference, old)
        close(penalty, [value])
        close(torch.autograd.grad(penalty.sum(), logprobs)[0], [slope])
    with pytest.raises(ValueError, match="k4"):
        kl_loss("k4", reference, reference, old)


@pytest.mark.parametrize("estimator", ["k2", "k3", "k3+"])
def test_gradients_of_the_kl_in_the_loss_in_expectation(estimator: str) -> None:
    """Over all tokens of a state, sampled by an older policy q: the exact gradient of the KL that is promised."""
    generator = torch.Generator().manual_seed(0)
    logits, older, anchor = (torch.randn(6, generator=generator, dtype=F64) for _ in range(3))
    q, reference = older.log_softmax(0), anchor.log_softmax(0)
    logits.requires_grad_()
    policy = logits.log_softmax(0)
    expected_penalty = (q.exp() * kl_loss(estimator, policy, reference, q)).sum()
    (found,) = torch.autograd.grad(expected_penalty, logits, retain_graph=True)
    exact = (policy.exp() * (policy - reference)).sum()
    if estimator == "k3":
        exact = (reference.exp() * (reference - policy)).sum()
    (gradient,) = torch.autograd.grad(exact, logits)
    torch.testing.assert_close(found, gradient)


def two_groups(**token: list[float]) -> list[TokenGroup]:
    """A prompt with completions of 3 and 1 tokens."""
    fields = {name: [np.array(xs[:3], np.float32), np.array(xs[3:], np.float32)] for name, xs in token.items()}
    return [TokenGroup((3,), (TokenCompletion((4, 4, 4)), TokenCompletion((4,))), token=fields)]


@pytest.mark.parametrize(("loss_type", "expected"), [("grpo", 1.5), ("dapo", 1.25), ("dr_grpo", 0.5)])
def test_normalisations_by_hand(loss_type: str, expected: float) -> None:
    """Tokens of loss 1, 0, 2 and 2: per completion 1 and 2, mean 1.5; per token 5 / 4; over 2 completions times 5."""
    batch = pack(two_groups(old_logprobs=[-1.0] * 4, advantages=[-1.0, 0.0, -2.0, -2.0]), device="cpu")
    objective = PolicyObjective(options={"cliprange": 0.2}, loss_type=loss_type, max_new_tokens=5)
    sums, _ = objective(Outputs(logprobs=torch.full((4,), -1.0)), batch)
    assert float(sums["policy_avg"]) / objective.counts(batch)["policy_avg"] == pytest.approx(expected)


def test_penalties_stand_beside_the_policys_loss() -> None:
    """k2 of log-ratios 1, 0, 0, 2 (0.5 and 2, mean 0.625) times 0.1; entropies of mean 1.5 times 0.2, negated."""
    token = {"old_logprobs": [-1.0] * 4, "advantages": [0.0] * 4, "reference_logprobs": [-2.0, -1.0, -1.0, -3.0]}
    batch = pack(two_groups(**token), device="cpu")
    objective = PolicyObjective(options={"cliprange": 0.2}, kl_penalty="k2", kl_coef=0.1, entropy_coef=0.2)
    assert objective.want == {"logprobs", "entropy"}
    outputs = Outputs(logprobs=torch.full((4,), -1.0), entropy=tensor([1.0, 1.0, 2.0, 2.0]))
    sums, metrics = objective(outputs, batch)
    means = {name: float(total) / objective.counts(batch)[name] for name, total in sums.items()}
    assert means == {
        "policy_avg": 0.0,
        "kl_avg": pytest.approx(0.0625),
        "entropy_avg": pytest.approx(-0.3),
    }
    assert float(metrics["policy/entropy_avg"][0] / metrics["policy/entropy_avg"][1]) == 1.5
    plain = PolicyObjective(options={"cliprange": 0.2})
    assert plain.want == {"logprobs"}
    assert set(plain(Outputs(logprobs=outputs.logprobs), batch)[0]) == {"policy_avg"}
