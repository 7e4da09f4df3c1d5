"""Case 22: a spike of reward hacking. When did it begin, what is paid, and how much of the gain does that explain?

python examples/cases/22_a_spike_of_reward_hacking.py
"""

from __future__ import annotations

import torch
from micro_ppo import OVERPAID, TOKENS, case_of, proxy, said, train

from assent.diagnosis.examine import examine

RUN = {"kl_coef": 0.1, "rate": 3.0, "paid": 2.0}


def main() -> dict[str, float]:
    torch.set_num_threads(1)
    log = train(RUN)
    report = examine(case_of(log, kl_coef=RUN["kl_coef"], learning_rate=RUN["rate"]))
    print("\n".join(said(report)))
    hacked = next(finding for finding in report.findings if finding.rule == "reward_hacked")
    gold = next(fact for fact in hacked.evidence if fact.metric == "gold/total")
    peak = max(range(len(log)), key=lambda i: log[i]["gold/total"])
    print("\nround  reward  gold   KL  share of the samples that is one answer, "
          f"tokens {' '.join(map(str, TOKENS[OVERPAID].tolist()))}")  # fmt: skip
    for i in sorted({0, peak // 2, peak, (peak + len(log)) // 2, len(log) - 1}):
        row = log[i]
        print(f"{i + 1:5d} {row['objective/scores']:7.2f} {row['gold/total']:5.2f} {row['objective/kl']:4.1f} "
              f"{row['share_overpaid']:6.1%}")  # fmt: skip
    first, last, at_peak = log[0], log[-1], log[peak]
    gain = last["objective/scores"] - at_peak["objective/scores"]
    paid = float(proxy(RUN["paid"])[OVERPAID])
    more = last["share_overpaid"] - at_peak["share_overpaid"]
    # Of the rise since the peak, what this one answer brought, and all that the others did
    explained = (more * paid) / gain if gain > 0 else 0.0
    others = gain - more * paid
    print(
        f"\nSince its peak at round {peak + 1} the reward rose by {gain:.2f}. The answer that is paid {paid:g} brought "
        f"{more * paid:.2f} of\nthat ({explained:.0%}), all others together {others:+.2f}: without "
        f"it the reward would have "
        "fallen, as gold did."
    )
    return {
        "peak": peak + 1, "found_from": float((gold.steps or (0, 0))[0]), "share_first": first["share_overpaid"],
        "share_peak": at_peak["share_overpaid"], "share_last": last["share_overpaid"], "explained": explained,
        "others": others, "fall": at_peak["gold/total"] - last["gold/total"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
