"""Case 23: the reward is up, behaviour is worse, and one change is allowed. Which one? Every candidate is tried.

python examples/cases/23_one_change_allowed.py
"""

from __future__ import annotations

import torch
from micro_ppo import HEALTHY, case_of, said, train

from assent.diagnosis.examine import examine

RUN = {"kl_coef": 0.1, "rate": 3.0, "paid": 2.0}
SEEDS = range(3)


def main() -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    options = HEALTHY | RUN
    report = examine(case_of(train(RUN), kl_coef=options["kl_coef"], learning_rate=options["rate"]))
    print("\n".join(said(report)))
    hacked = next(finding for finding in report.findings if finding.rule == "reward_hacked")
    stronger = float(hacked.fix["kl_coef"].applied(options["kl_coef"]))
    candidates: dict[str, dict[str, float]] = {
        "nothing": {},
        "the doctor's change": {"kl_coef": stronger},
        "an adaptive KL, target 0.5 nats": {"kl_target": 0.5},
        "fewer epochs": {"epochs": 1.0},
        "fewer epochs, two and a half times as long": {"epochs": 1.0, "rounds": 150.0},
        "more data: four times the samples": {"samples": 512.0},
        "twice as long": {"rounds": 120.0},
    }
    found: dict[str, dict[str, float]] = {}
    print(f"\n{'one change':42s} {'reward':>7s} {'gold':>6s} {'KL':>6s}   (last round, mean of {len(SEEDS)} seeds)")
    for name, change in candidates.items():
        ends = [train(RUN | change, seed)[-1] for seed in SEEDS]
        mean = {key: sum(row[key] for row in ends) / len(ends) for key in ends[0]}
        found[name] = {"reward": mean["objective/scores"], "gold": mean["gold/total"], "kl": mean["objective/kl"]}
        print(f"{name:42s} {mean['objective/scores']:7.2f} {mean['gold/total']:6.2f} {mean['objective/kl']:6.2f}")
    print(
        "\nThe change is a KL that holds: a stronger penalty, or one that adapts to a target. More "
        "samples and more rounds\n"
        "optimise the same wrong reward further; fewer epochs get there later, and help where "
        "ratios leave the clip range."
    )
    return found


if __name__ == "__main__":
    main()
