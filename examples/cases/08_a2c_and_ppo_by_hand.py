"""Case 8: the objectives of A2C and PPO on an episode of five tokens, worked out on paper beside the program's numbers.

gamma = 1, lambda = 0.5, kl_coef = 0.1, cliprange = 0.2, cliprange_value = 0.2; the score is 1 at the last token.

    python examples/cases/08_a2c_and_ppo_by_hand.py
"""

from __future__ import annotations

import torch
from torch import Tensor

from assent.objectives import gae, kl, masked_mean, ppo_loss, token_rewards, value_loss

GAMMA, LAM, KL_COEF, CLIP, CLIP_VALUE, SCORE = 1.0, 0.5, 0.1, 0.2, 0.2, 1.0
OLD = [-1.0, -2.0, -0.5, -1.5, -0.1]  # log-probabilities of the policy that sampled
REFERENCE = [-1.2, -2.0, -0.9, -1.0, -0.1]
VALUES = [0.5, 0.4, 0.6, 0.7, 0.9]  # the critic's, when sampled
NEW = [-0.7, -2.1, -0.9, -1.4, -0.1]  # log-probabilities after some updates
NEW_VALUES = [0.6, 0.7, 0.6, 0.6, 1.0]

ON_PAPER = {
    # k1 = old - reference
    "KL": [0.2, 0.0, 0.4, -0.5, 0.0],
    # -0.1 KL, and the score 1 at the end of the sequence
    "reward": [-0.02, 0.0, -0.04, 0.05, 1.0],
    # delta_t = r_t + V_(t+1) - V_t, with V = 0 after the end
    #   -0.02 + 0.4 - 0.5 = -0.12;  0 + 0.6 - 0.4 = 0.2;  -0.04 + 0.7 - 0.6 = 0.06;  0.05 + 0.9 - 0.7 = 0.25;
    #   1 - 0.9 = 0.1
    # A_t = delta_t + 0.5 A_(t+1), from the end
    #   0.1;  0.25 + 0.05 = 0.3;  0.06 + 0.15 = 0.21;  0.2 + 0.105 = 0.305;  -0.12 + 0.1525 = 0.0325
    "advantage": [0.0325, 0.305, 0.21, 0.3, 0.1],
    # value target = A + V
    "return": [0.5325, 0.705, 0.81, 1.0, 1.0],
    # A2C: -A log p, on the policy that sampled
    "A2C": [0.0325, 0.61, 0.105, 0.45, 0.01],
    # ratio = exp(new - old): exp 0.3, exp -0.1, exp -0.4, exp 0.1, exp 0
    "ratio": [1.349859, 0.904837, 0.670320, 1.105171, 1.0],
    # PPO: -min(ratio A, clip(ratio, 0.8, 1.2) A). Only the first is clipped: 1.2 * 0.0325; the third is below 0.8, and
    # with a positive advantage the minimum is the ratio itself
    "PPO": [-0.039, -0.2759754, -0.1407672, -0.3315513, -0.1],
    "clipped": [1.0, 0.0, 0.0, 0.0, 0.0],
    # value: 1/2 max[(V - R)^2, (clip(V, V_old +- 0.2) - R)^2]; the second moves by 0.3 and is clipped to 0.6:
    #   (0.6 - 0.5325)^2 / 2;  max[0.005^2, 0.105^2] / 2;  0.21^2 / 2;  0.4^2 / 2;  0
    "value loss": [0.002278125, 0.0055125, 0.02205, 0.08, 0.0],
}


def main() -> dict[str, list[float]]:
    old, reference, values, new, new_values = (
        torch.tensor([numbers], dtype=torch.float64) for numbers in (OLD, REFERENCE, VALUES, NEW, NEW_VALUES)
    )
    mask = torch.ones_like(old, dtype=torch.bool)
    penalty = kl("k1", old, reference)
    rewards = token_rewards(penalty, torch.tensor([SCORE], dtype=torch.float64), mask, kl_coef=KL_COEF)
    advantages, returns = gae(rewards, values, mask, gamma=GAMMA, lam=LAM)
    losses, metrics = ppo_loss(new, old, advantages, mask, cliprange=CLIP)
    critic, _ = value_loss(new_values, values, returns, mask, cliprange_value=CLIP_VALUE)
    computed = {
        "KL": penalty,
        "reward": rewards,
        "advantage": advantages,
        "return": returns,
        "A2C": -advantages * old,
        "ratio": metrics["val/ratio"],
        "PPO": losses,
        "clipped": metrics["policy/clipfrac_avg"],
        "value loss": critic,
    }
    print(f"{'':<22}" + "".join(f"{f'token {t}':>11}" for t in range(1, 6)) + f"{'mean':>11}")
    for name, numbers in computed.items():
        print(f"{name:<12}{'program':<10}{_cells(numbers)}{float(masked_mean(numbers, mask)):>11.6f}")
        print(f"{'':<12}{'paper':<10}{_cells(torch.tensor([ON_PAPER[name]]))}{sum(ON_PAPER[name]) / 5:>11.6f}")
    print(
        "\nNothing is whitened here. At the first update A2C and PPO push alike: both gradients are -A d log p.\n"
        "Later PPO stops pushing token 1, whose ratio has passed 1.2; token 3 fell below 0.8 and is still pushed up."
    )
    gradients = {f"gradient of {name}": _gradient(name, old, advantages, mask) for name in ("A2C", "PPO")}
    return {**{name: numbers[0].tolist() for name, numbers in computed.items()}, **gradients}


def _gradient(name: str, old: Tensor, advantages: Tensor, mask: Tensor) -> list[float]:
    """d loss / d log-probability of each token, at the policy that sampled."""
    logps = old.clone().requires_grad_()
    losses = -advantages * logps if name == "A2C" else ppo_loss(logps, old, advantages, mask, cliprange=CLIP)[0]
    return torch.autograd.grad(losses.sum(), logps)[0][0].tolist()


def _cells(numbers: Tensor) -> str:
    return "".join(f"{number:>11.6f}" for number in numbers[0].tolist())


if __name__ == "__main__":
    main()
