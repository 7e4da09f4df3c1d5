"""Estimates of KL(policy || reference) from tokens that the policy sampled, and the controller of its coefficient."""

from __future__ import annotations

import torch
from torch import Tensor

ESTIMATORS = ("k1", "k2", "k3")


def kl(estimator: str, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per-token estimate in nats, in the shape of `logprobs` (any).

    Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html), with r = reference / policy:
    k1 = -log r is unbiased and may be negative; k2 = (log r)^2 / 2 is biased; k3 = (r - 1) - log r is unbiased and
    never negative. Raises ValueError for another estimator.
    """
    log_ratio = logprobs - reference_logprobs  # -log r
    match estimator:
        case "k1":
            return log_ratio
        case "k2":
            return 0.5 * log_ratio.square()
        case "k3":
            return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(f"no KL estimator {estimator!r}; there are {', '.join(ESTIMATORS)}")


def kl_loss(estimator: str, logprobs: Tensor, reference_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """The loss's KL penalty, per token. On the rollout's tokens its expected gradient at each state is

        k2, k3+   that of KL(policy || reference):    E[log(policy / reference) grad log policy]
        k3        that of KL(reference || policy):    E[(1 - reference / policy) grad log policy]

    The gradient of an estimator of the value need not estimate the gradient of the KL. k3 as GRPO differentiates it
    (Shao et al., arXiv:2402.03300, eq. 4) has the gradient of the KL in the other direction. k3+ also differentiates
    the sampling: it is k3 times the ratio of the policy to the policy that sampled (DeepSeek-V3.2, arXiv:2512.02556:
    unbiased KL estimate). The ratio also corrects for tokens that an older policy sampled; in k2 and k3 it is a
    constant. All gradients hold the states fixed: they leave out a token's effect on the KL of later tokens, which a KL
    penalty in the reward includes. Raises ValueError for another estimator.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    if estimator == "k3+":
        return ratio * kl("k3", logprobs, reference_logprobs)
    return ratio.detach() * kl(estimator, logprobs, reference_logprobs)


class AdaptiveKLController:
    """Adapts the KL coefficient so that the KL tends to `target` nats a completion (Ziegler et al., arXiv:1909.08593).

    Section 2.2 of the paper. K_beta is n / horizon, as in the authors' code (lm-human-preferences):
        error = clip(KL / target - 1, -0.2, 0.2);  value <- value * (1 + error * n / horizon)
    `value` is the whole state: save it in a checkpoint and set it to resume.
    """

    max_error = 0.2

    def __init__(self, init: float, target: float, horizon: float) -> None:
        if not (init > 0 and target > 0 and horizon > 0):
            raise ValueError(f"init {init}, target {target} and horizon {horizon} must be above zero")
        self.value, self.target, self.horizon = float(init), float(target), float(horizon)

    def update(self, kl: float, n: int) -> float:
        """The new value, from the KL in nats per completion, measured on n completions.

        Raises ValueError if n >= 5 * horizon, because one step could then make the coefficient zero or negative.
        """
        if self.max_error * n >= self.horizon:
            raise ValueError(
                f"horizon {self.horizon:g} is too short for steps of {n} completions: it must be above {n / 5:g}"
            )
        error = min(max(kl / self.target - 1.0, -self.max_error), self.max_error)
        self.value *= 1.0 + error * n / self.horizon
        return self.value
