"""Case 21: the reward model's held-out accuracy is fine, PPO's reward rises, people like the answers less, and the KL
is "under control". How can that be?

    python examples/cases/21_conflicting_signals.py
"""

from __future__ import annotations

import torch
from micro_ppo import GOLD, HEALTHY, OVERPAID, REFERENCE, case_of, proxy, said, tokenwise, train

from assent.diagnosis.examine import examine

RUN = {"kl_coef": 0.1, "rate": 3.0, "paid": 2.0}


def pair_accuracy(log_policy: torch.Tensor) -> float:
    """How often the reward model ranks two of the policy's own answers as gold does; ties count half. Enumerated."""
    p, reward = log_policy.exp(), proxy(RUN["paid"])
    right = torch.sign(reward[:, None] - reward) * torch.sign(GOLD[:, None] - GOLD)
    weight = p[:, None] * p * (GOLD[:, None] != GOLD)
    return float((weight * (right + 1) / 2).sum() / weight.sum())


def at_distances(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """The first round at each distance from the reference: reward and gold part with it, not with time."""
    found = [next((row for row in log if row["objective/kl"] >= nats), None) for nats in (0.5, 1.0, 2.0, 4.0)]
    return [row for row in found if row is not None]


def main() -> dict[str, float | list[str]]:
    torch.set_num_threads(1)
    log = train(RUN)
    first, last = log[0], log[-1]
    reference = tokenwise(REFERENCE).sum(1)
    accuracy = pair_accuracy(reference)
    # what the policy says at the end: the reference, and so much of the overpaid answer
    share = last["share_overpaid"]
    shifted = torch.log((1 - share) * reference.exp())
    shifted[OVERPAID] = torch.logaddexp(shifted[OVERPAID], torch.tensor(max(share, 1e-9)).log())
    accuracy_there = pair_accuracy(shifted)
    largest_clip = max(row["policy/clipfrac_avg"] for row in log)
    options = HEALTHY | RUN
    known = {"kl_coef": options["kl_coef"], "learning_rate": options["rate"], "num_ppo_epochs": int(options["epochs"])}
    report, blind = examine(case_of(log, **known)), examine(case_of(log, hidden=["gold/total"], **known))
    print(f"reward model, accuracy on pairs of the reference's answers: {accuracy:.1%}")
    print(f"reward {first['objective/scores']:.2f} -> {last['objective/scores']:.2f}")
    print(f"KL at the end {last['objective/kl']:.2f} nats (a usual target is 6)")
    print(f"tokens clipped in a round at most {largest_clip:.0%}")
    print(f"people's view (gold) {first['gold/total']:.2f} -> {last['gold/total']:.2f}\n")
    print("at the same KL: " + "; ".join(
        f"{row['objective/kl']:.1f} nats: reward {row['objective/scores']:.2f}, gold {row['gold/total']:.2f}"
        for row in at_distances(log)
    ) + "\n")  # fmt: skip
    print("\n".join(said(report)))
    reason = dict(blind.not_checked).get("reward_hacked", "")
    print(f"\nWithout people's view in the log the doctor does not guess: reward_hacked is not checked ({reason}).")
    print(
        f"\nAccuracy on pairs says nothing about the policy's own answers: among answers like those at the end it is\n"
        f"{accuracy_there:.1%}. The reward model is wrong on one answer, which the reference's pairs hardly hold.\n"
        "The clip bounds each step from the last sampler, not the distance from the reference; the KL penalty loses\n"
        "whenever reward - beta KL still beats the baseline: such an answer has a positive advantage, and its tokens\n"
        "rise. So: a larger or adaptive beta, or a stop at a KL, at the price of a reward that rises more slowly\n"
        "(case 23 has the figures); labels for what the policy now writes, with answers that look good and are wrong\n"
        "among the rejected ones; several reward models whose disagreement counts; gold beside the reward at the\n"
        "same KL."
    )
    return {
        "accuracy": accuracy, "accuracy_there": accuracy_there, "clipped": largest_clip, "kl": last["objective/kl"],
        "reward": last["objective/scores"] - first["objective/scores"],
        "gold": last["gold/total"] - first["gold/total"],
        "rules": [finding.rule for finding in report.findings], "blind": [finding.rule for finding in blind.findings],
    }  # fmt: skip


if __name__ == "__main__":
    main()
