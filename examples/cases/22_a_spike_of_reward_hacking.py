"""Case 22: a spike of reward hacking. When did it begin, what is paid, and how much of the gain does that explain?

python examples/cases/22_a_spike_of_reward_hacking.py
"""

from __future__ import annotations

import torch
from micro_ppo import GOLD, MASK, OVERPAID, TOKENS, case_of, proxy, said, train
from torch import Tensor

from assent.diagnosis.examine import examine

RUN = {"kl_coef": 0.1, "rate": 3.0, "paid": 2.0}
NEARLY = 0.9
"""Of the largest growth: among patterns that grew so much the narrowest is what is paid."""


def patterns() -> dict[str, Tensor]:
    """What answers may have in common: their length, a token at a place, all their tokens. (S,) each."""
    found = {"one token long": ~MASK[:, 1], "two tokens long": MASK[:, 1]}
    for token in sorted(set(TOKENS.flatten().tolist())):
        found |= {f"first token {token}": TOKENS[:, 0] == token, f"second token {token}": TOKENS[:, 1] == token}
    every = torch.arange(len(TOKENS))
    return found | {f"tokens {text(i)}": every == i for i in range(len(TOKENS))}


def text(answer: int) -> str:
    return " ".join(map(str, TOKENS[answer].tolist()))


def grown(before: Tensor, after: Tensor) -> list[tuple[float, float, str]]:
    """(share before, share after, pattern), the one that grew most first; of those that grew alike, the narrowest."""
    shares = [
        (float(has[before].float().mean()), float(has[after].float().mean()), float(has.float().mean()), name)
        for name, has in patterns().items()
    ]
    most = max(after - before for before, after, *_ in shares)
    shares.sort(key=lambda row: (row[1] - row[0] < NEARLY * most, row[2]))
    return [(before, after, name) for before, after, _, name in shares]


def main() -> dict[str, float | str]:
    torch.set_num_threads(1)
    samples: list[Tensor] = []
    log = train(RUN, kept=samples)
    report = examine(case_of(log, kl_coef=RUN["kl_coef"], learning_rate=RUN["rate"]))
    print("\n".join(said(report)))
    hacked = next(finding for finding in report.findings if finding.rule == "reward_hacked")
    gold = next(fact for fact in hacked.evidence if fact.metric == "gold/total")
    peak = max(range(len(log)), key=lambda i: log[i]["gold/total"])
    # who wrote the run does not know what is paid: the samples at the peak and at the end tell it
    found = grown(torch.cat(samples[peak - 2 : peak + 3]), torch.cat(samples[-5:]))
    print(f"\nWhat the answers of the last five rounds have more often than those around round {peak + 1}:")
    for before, after, name in found[:3]:
        print(f"  {name:14s} {before:6.1%} -> {after:6.1%}")
    print("and the answers themselves, with what the reward model pays and what they are worth:")
    for rows, when in ((samples[peak], f"round {peak + 1}"), (samples[-1], f"round {len(log)}")):
        counts = torch.bincount(rows, minlength=len(TOKENS))
        most = [int(i) for i in counts.argsort(descending=True)[:3] if counts[i]]
        shown = [f"{text(i)} ({counts[i] / len(rows):.0%}, paid {proxy(RUN['paid'])[i]:.1f}, worth {GOLD[i]:.1f})"
                 for i in most]  # fmt: skip
        print(f"  {when}: {'; '.join(shown)}")
    print(f"\nround  reward  gold   KL  share of the answer with {found[0][2]}")
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
        "pattern": found[0][2], "paid": f"tokens {text(OVERPAID)}",
    }  # fmt: skip


if __name__ == "__main__":
    main()
