"""Case 24: β too high, β too low: what each does to reward, KL and entropy; told apart from a dead reward and from a
reference that is broken.

    python examples/cases/24_beta_too_high_or_too_low.py
"""

from __future__ import annotations

import torch
from micro_ppo import HEALTHY, case_of, said, train

from assent.diagnosis.examine import examine

RUNS: dict[str, dict[str, float]] = {
    "healthy": {},
    "beta too high": {"kl_coef": 5.0, "rate": 0.5},
    "beta too low": {"kl_coef": 0.0, "rate": 3.0, "paid": 3.0},
    "dead reward": {"unit": 0.0},
    "broken reference": {"rate": 3.0, "reference_moves": 1.0},
}


def main() -> dict[str, list[str]]:
    torch.set_num_threads(1)
    found: dict[str, list[str]] = {}
    for name, changes in RUNS.items():
        log = train(changes)
        last = log[-1]
        options = HEALTHY | changes
        report = examine(case_of(log, kl_coef=options["kl_coef"], learning_rate=options["rate"]))
        found[name] = [finding.rule for finding in report.findings]
        print(
            f"{name}: reward {log[0]['objective/scores']:.2f} -> {last['objective/scores']:.2f}, "
            f"KL {last['objective/kl']:.3f}, entropy {log[0]['objective/entropy']:.2f} -> "
            f"{last['objective/entropy']:.2f}, worth {log[0]['gold/total']:.2f} -> {last['gold/total']:.2f}"
        )
        print(
            f"  an update weighs answers by reward minus penalty: among a round's answers the reward differs by "
            f"{last['objective/scores_std']:.2f}, the penalty by {last['penalty_std']:.2f}"
        )
        print("\n".join(said(report)), "\n")
    print(
        "β too high holds the KL at 0 and the reward where it was: a step that hardly shows as KL is fined as much\n"
        "as answers differ in reward, and each update takes back the last. Too low lets KL rise and entropy fall\n"
        "until the reward is paid for what is worth nothing: nothing is subtracted from its advantage. A dead reward\n"
        "has no spread, whatever β is. A broken reference has a KL of exactly 0 while the policy's updates are not."
    )
    return found


if __name__ == "__main__":
    main()
