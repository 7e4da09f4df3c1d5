"""Case 1: from a preference model to DPO, step by step, with numbers.

The world is small enough to enumerate, so the normaliser Z is known exactly.

    python examples/cases/01_from_preferences_to_dpo.py
"""

from __future__ import annotations

import numpy as np
import torch

import assent
from assent.objectives import preference_loss
from assent.sandbox.microworld import MicroWorld

BETA = 0.3
TOKENS = "a", "b", "."


def main() -> dict[str, float]:
    world = MicroWorld(vocabulary=3, length=2, seed=0)  # the last token ends a completion: seven completions in all
    names = ["".join(TOKENS[token] for token in row).rstrip(".") + "." for row in world.completions]
    optimum, log_z = world.optimum(BETA)
    implicit = BETA * (optimum - world.reference)

    print("1. A preference is a difference of rewards: p(a beats b) = sigma(r_a - r_b)   (Bradley-Terry)")
    a, b = int(np.argmax(world.reward)), int(np.argmin(world.reward))
    by_rewards = assent.explain(scores=[world.reward[a], world.reward[b]])
    print(
        f"   r({names[a]}) = {world.reward[a]:.1f}, r({names[b]}) = {world.reward[b]:.1f}: "
        f"p = {by_rewards['preference_probability']:.6f}\n"
    )

    print("2. The policy that maximises E[r] - beta KL(policy || reference) is reference * exp(r / beta) / Z")
    print("   completion  reference     r  reference*exp(r/beta)  optimum  beta*log(optimum/reference)  + beta*log Z")
    for i, name in enumerate(names):
        tilted = np.exp(world.reference[i] + world.reward[i] / BETA)
        cells = f"{np.exp(world.reference[i]):10.4f} {world.reward[i]:5.1f} {tilted:22.4f} {np.exp(optimum[i]):8.4f}"
        print(f"   {name:<10} {cells} {implicit[i]:28.4f} {implicit[i] + BETA * log_z:13.4f}")
    print(f"   Z = {np.exp(log_z):.4f} is the sum of the fourth column; beta log Z = {BETA * log_z:.4f}\n")

    print("3. So r = beta log(optimum / reference) + beta log Z: the last column is r. In a difference, Z cancels:")
    by_policy = assent.explain(logps=[optimum[a], optimum[b], world.reference[a], world.reference[b]], beta=BETA)
    print(
        f"   implicit rewards {by_policy['reward_chosen']:.4f} and {by_policy['reward_rejected']:.4f}, "
        f"margin {by_policy['margin']:.4f}: p = {by_policy['preference_probability']:.6f}, as in step 1\n"
    )

    print("4. The likelihood of preferences, written with implicit rewards, is DPO's loss. It needs no r and no Z:")
    policy = train(world)
    distance = 0.5 * float(np.abs(np.exp(policy) - np.exp(optimum)).sum())
    print(f"   trained on preferences alone, the policy is at total variation {distance:.1e} from the optimum")
    return {
        "log_z": log_z,
        "by_rewards": by_rewards["preference_probability"],
        "by_policy": by_policy["preference_probability"],
        "largest_gap": float(np.abs(implicit + BETA * log_z - world.reward).max()),
        "total_variation": distance,
    }


def train(world: MicroWorld) -> np.ndarray:
    """(S,) log-probabilities after DPO on all pairs. Each pair has its Bradley-Terry probability as label."""
    reference, reward = torch.tensor(world.reference), torch.tensor(world.reward)
    first, second = torch.combinations(torch.arange(len(reward))).unbind(1)
    logits = reference.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logps = logits.log_softmax(0)
        values, _ = preference_loss(
            "sigmoid",
            chosen=logps[first],
            rejected=logps[second],
            reference_chosen=reference[first],
            reference_rejected=reference[second],
            chosen_probability=torch.sigmoid(reward[first] - reward[second]),
            beta=BETA,
        )
        values.mean().backward()
        return values.mean()

    optimiser.step(closure)
    return logits.detach().log_softmax(0).numpy()


if __name__ == "__main__":
    main()
