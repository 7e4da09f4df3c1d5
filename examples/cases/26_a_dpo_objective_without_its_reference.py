"""Case 26: a DPO objective without its reference; with a reference that moves; with chosen and rejected swapped; with
margins that grow while the chosen answer's probability falls. The log tells them apart.

    python examples/cases/26_a_dpo_objective_without_its_reference.py
"""

from __future__ import annotations

from typing import Any

import torch
from micro_dpo import World, case_of, said, train

from assent.diagnosis.examine import examine

RUNS: dict[str, dict[str, Any]] = {
    "healthy": {},
    "no reference": {"reference": "none"},
    "the reference moves": {"reference": "policy"},
    "chosen and rejected swapped": {"swap": True},
    "near-twins": {"twins": True, "rate": 400.0},
}


def main() -> dict[str, dict[str, Any]]:
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for name, faults in RUNS.items():
        options = dict(faults)
        log, _ = train(World(twins=options.pop("twins", False)), beta=0.1, **options)
        report = examine(case_of(log, beta=0.1))
        first, last = log[0], log[-1]
        found[name] = {
            "rules": [finding.rule for finding in report.findings], "loss": first["loss"],
            "margin": last["rewards/margins"], "chosen": last["logps/chosen"] - first["logps/chosen"],
            "held_out": last["eval_rewards/accuracies"],
        }  # fmt: skip
        print(
            f"{name}: loss {first['loss']:.4f} -> {last['loss']:.4f}, margin {last['rewards/margins']:+.3f}, "
            f"log p(chosen) {first['logps/chosen']:.2f} -> {last['logps/chosen']:.2f}, held-out accuracy "
            f"{last['eval_rewards/accuracies']:.2f}"
        )
        print("\n".join(said(report)), "\n")
    print(
        "The loss is -log sigma(beta ((log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected))).\n"
        "Without the reference the loss does not begin at ln 2 = 0.6931, and rewards are beta times "
        "log-probabilities. With\n"
        "a reference that moves it stays at ln 2 while the log-probabilities change. Swapped "
        "columns train well and rank\n"
        "held-out pairs the wrong way round. With near-twins the margin grows although the chosen "
        "answer falls too: the\n"
        "loss sees their difference alone."
    )
    return found


if __name__ == "__main__":
    main()
