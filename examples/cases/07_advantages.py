"""Case 7: three actions with advantages +, 0 and -. Which probabilities does one step raise, exactly?

python examples/cases/07_advantages.py
"""

from __future__ import annotations

import torch
from torch import Tensor

from assent.objectives import ppo_loss

RATE = 0.5
ACTIONS = "+", "0", "-"
POLICY = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def main() -> dict[str, list[float]]:
    found = {}
    for title, advantages in (
        (
            "Advantages +1, 0, -1 (their mean under the policy is -0.3, as from a critic that is wrong)",
            [1.0, 0.0, -1.0],
        ),
        ("Advantages +1, 0, -0.4 (mean 0 under the policy, as true advantages have)", [1.0, 0.0, -0.4]),
        ("Advantages +0.1, 0, -1 (mean -0.48)", [0.1, 0.0, -1.0]),
    ):
        a = torch.tensor(advantages, dtype=torch.float64)
        gradient = -expected_gradient(a)  # of what is maximised
        by_hand = POLICY * (a - (POLICY * a).sum())
        after = (POLICY.log() + RATE * gradient).softmax(0)
        print(f"{title}, one step of rate {RATE} on the logits:")
        for i, name in enumerate(ACTIONS):
            print(
                f"   A {name}  p {POLICY[i]:.3f}  d logit {gradient[i]:+.4f} (by hand p (A - mean A) {by_hand[i]:+.4f})"
                f"  p after {after[i]:.4f} ({after[i] - POLICY[i]:+.4f})"
            )
        found[str(advantages)] = [*gradient.tolist(), *after.tolist(), float((gradient - by_hand).abs().max())]
        print()
    sampled = -expected_gradient(torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64), actions=[1])
    found["zero sampled"] = sampled.tolist()
    print(f"If only the action with A = 0 was sampled, the gradient is {sampled.abs().sum():.1f}: nothing moves.")
    print(
        "So a zero advantage moves an action for two reasons, neither its own: the mean of the others' advantages in\n"
        "d logit, and the softmax, in which what others win or lose is taken from or given to all."
    )
    return found


def expected_gradient(advantages: Tensor, actions: list[int] | None = None) -> Tensor:
    """(3,) gradient of PPO's loss at ratio 1 with respect to the logits. Without actions, the expected gradient."""
    logits = POLICY.log().requires_grad_()
    logps = logits.log_softmax(0)
    chosen = torch.arange(3) if actions is None else torch.tensor(actions)
    weights = POLICY if actions is None else torch.full((len(chosen),), 1 / len(chosen), dtype=POLICY.dtype)
    mask = torch.ones(len(chosen), dtype=torch.bool)
    losses, _ = ppo_loss(logps[chosen], logps[chosen].detach(), advantages[chosen], mask, cliprange=0.2)
    (gradient,) = torch.autograd.grad((weights * losses).sum(), logits)
    return gradient


if __name__ == "__main__":
    main()
