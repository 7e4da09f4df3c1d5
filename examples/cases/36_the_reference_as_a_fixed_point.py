"""Case 36: the reference as a fixed point: its fingerprint at the start and at the end, and what changes when it
follows the policy.

    python examples/cases/36_the_reference_as_a_fixed_point.py
"""

from __future__ import annotations

import math

import torch
from micro_dpo import World, case_of, fingerprint, said, train

from assent.diagnosis.examine import examine

BETA = 0.1


def weight(row: dict[str, float]) -> float:
    """sigma(-margin), at the mean margin."""
    return 1 / (1 + math.exp(row["rewards/margins"]))


def main() -> dict[str, object]:
    torch.set_num_threads(1)
    world = World()
    before = fingerprint(world.start)
    found: dict[str, object] = {}
    for name, reference, options in (
        ("the reference stays", "start", {}),
        ("the reference is the policy", "policy", {}),
        ("it follows by design (TR-DPO)", "follows", {"reference_sync_steps": 15}),
    ):
        log, weights = train(world, beta=BETA, reference=reference)
        after = fingerprint(world.start if reference == "start" else weights)
        report = examine(case_of(log, beta=BETA, **options))
        distance = float((world.logps(weights).exp() * (world.logps(weights) - world.logps(world.start))).sum())
        print(f"{name}: fingerprint {before} -> {after} ({'the same' if after == before else 'another'}), loss "
              f"{log[0]['loss']:.4f} -> {log[-1]['loss']:.4f}, a pair's weight "
              f"{weight(log[0]):.2f} -> {weight(log[-1]):.2f}, KL to the start {distance:.2f} nats")  # fmt: skip
        print("\n".join(said(report)), "\n")
        found[name] = {
            "rules": [finding.rule for finding in report.findings],
            "same": after == before,
            "loss": log[-1]["loss"],
            "weight": weight(log[-1]),
            "kl": distance,
        }
    print(
        "A pair's weight in DPO's gradient is sigma(-margin). A fixed reference lets it fall as the "
        "margin grows, so that the\n"
        f"policy comes to rest. One that is the policy keeps the margin at 0, the loss at ln 2 = "
        f"{math.log(2):.4f} and the\n"
        "weight at 1/2: the policy walks on, and no log-ratio says how far. Where the reference "
        "follows on purpose, that has\n"
        "to be said (reference_sync_steps), and the distance to the start measured."
    )
    return found


if __name__ == "__main__":
    main()
