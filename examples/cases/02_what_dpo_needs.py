"""Case 2: what DPO needs at training: policy, the log-probabilities of a frozen reference, beta, and pairs.

Each of them is removed in turn, to show what goes wrong. DPO needs no reward model, no sampling and no critic. At the
end it is given a reward model, and refuses it.

    python examples/cases/02_what_dpo_needs.py
"""

from __future__ import annotations

import json
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import assent
from assent.errors import AssentError
from assent.objectives import preference_loss
from assent.runs.progress import Silent
from assent.sandbox.microworld import MicroWorld

BETA, STEPS, RATE = 0.3, 600, 3.0
WORLD = MicroWorld(vocabulary=3, length=2, seed=0)
REFERENCE, REWARD = torch.tensor(WORLD.reference), torch.tensor(WORLD.reward)
FIRST, SECOND = torch.combinations(torch.arange(len(REWARD))).unbind(1)  # every pair, labelled by Bradley-Terry


def main() -> dict[str, float]:
    optimum = WORLD.optimum(BETA)[0]

    def away(policy: np.ndarray) -> float:
        """Total variation from reference * exp(r / beta) / Z, the policy that DPO should reach."""
        return 0.5 * float(np.abs(np.exp(policy) - np.exp(optimum)).sum())

    print("On a world of seven completions, where the right policy is known (TV: total variation from it, 0 is right):")
    found = {}
    whole, loss = train()
    found["complete"] = away(whole)
    print(f"  policy, reference, beta, pairs      TV {found['complete']:.4f}, loss {loss:.4f}")

    print("\nWithout the reference:")
    found["refused_reference"] = float(refused(lambda: train(reference=lambda _: None)))
    without, _ = train(reference=torch.zeros_like)
    found["no_reference"] = away(without)
    print(f"  a constant in its place             TV {found['no_reference']:.4f}: what the reference knew is forgotten")
    for steps in (10, 100, STEPS):
        moving, loss = train(reference=Tensor.detach, steps=steps)
        found[f"moving_{steps}"] = kl = WORLD.kl(moving, WORLD.reference)
        found["moving_loss"] = loss
        print(
            f"  one that moves along, {steps:>4} steps   TV {away(moving):.4f}, KL to start {kl:.2f}, loss {loss:.4f}"
        )
    print("    its margin is always 0 and its loss ln 2, and nothing holds the policy: it ends with one answer for all")

    found["one_answer"] = -WORLD.reference[np.argmax(WORLD.reward)]

    print("\nWithout beta:")
    nothing, loss = train(beta=0.0)
    found["no_beta"] = abs(WORLD.kl(nothing, WORLD.reference))
    print(f"  beta = 0: loss {loss:.4f} = ln 2, KL to the start {found['no_beta']:.4f}: nothing is learned")
    found["refused_beta"] = float(refused(lambda: assent.dpo(model="m", data="d", beta=0)))
    other, _ = train(beta=10 * BETA)
    found["other_beta"] = away(other)
    print(f"  beta ten times larger               TV {found['other_beta']:.4f}: another optimum, nearer the reference")

    with tempfile.TemporaryDirectory() as folder:
        found |= with_a_language_model(Path(folder))
    return found


def train(
    *, reference: Callable[[Tensor], Tensor | None] = lambda _: REFERENCE, beta: float = BETA, steps: int = STEPS
) -> tuple[np.ndarray, float]:
    """DPO on a table of logits. Returns the policy's log-probabilities (S,) and the last loss."""
    logits = REFERENCE.clone().requires_grad_()
    for _ in range(steps):
        logps = logits.log_softmax(0)
        at = reference(logps)
        values, _ = preference_loss(
            "sigmoid",
            chosen=logps[FIRST],
            rejected=logps[SECOND],
            reference_chosen=None if at is None else at[FIRST],
            reference_rejected=None if at is None else at[SECOND],
            chosen_probability=torch.sigmoid(REWARD[FIRST] - REWARD[SECOND]),
            beta=beta,
        )
        (gradient,) = torch.autograd.grad(values.mean(), logits)
        logits = (logits - RATE / BETA * gradient).detach().requires_grad_()
    return logits.detach().log_softmax(0).numpy(), float(values.detach().mean())


def with_a_language_model(folder: Path) -> dict[str, float]:
    """Runs the rest with `assent.dpo` itself, on a model of a few thousand parameters."""
    rows = [{"prompt": f"{i} plus 1 is", "chosen": f" {i + 1}", "rejected": f" not {i}"} for i in range(8)]
    pairs, demonstrations = folder / "pairs.jsonl", folder / "demonstrations.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    demonstrations.write_text(
        "".join(json.dumps({"prompt": row["prompt"], "completion": row["chosen"]}) + "\n" for row in rows)
    )
    model = folder / "model"
    assent.new_model(
        output_dir=model, text_files=[pairs], vocab_size=280, hidden_size=16, layers=1, heads=2, context=64
    )
    options: dict[str, Any] = {"max_length": 64, "batch_size": 4, "device": "cpu", "progress": Silent()}
    options |= {"output_dir": folder / "run"}
    print("\nWithout a policy:")
    found = {"refused_policy": float(refused(lambda: assent.dpo(data=pairs, **options)))}
    print("\nWithout pairs (demonstrations in their place):")
    found["refused_pairs"] = float(refused(lambda: assent.dpo(model=model, data=demonstrations, **options)))
    print("\nWith a reward model added:")
    found["refused_reward"] = float(refused(lambda: assent.dpo(model=model, data=pairs, reward="my-reward", **options)))
    print("\nWithout one, the run's own ledger:")
    costs = assent.dpo(model=model, data=pairs, **options).metrics
    for name in ("cost/labels", "cost/reward_calls", "cost/completions_sampled", "cost/models_resident"):
        found[name] = costs[name]
        print(f"  {name:<26} {costs[name]:g}")
    return found


def refused(call: Callable[[], object]) -> bool:
    """Whether the call is refused. Prints the reason."""
    try:
        call()
    except (AssentError, ValueError) as error:
        lines = [textwrap.shorten(line, 110) for line in str(error).splitlines()]
        print("\n    ".join([f"  refused: {lines[0]}", *lines[1:]]))
        return True
    return False


if __name__ == "__main__":
    main()
