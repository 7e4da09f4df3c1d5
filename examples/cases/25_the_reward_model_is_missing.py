"""Case 25: "there is no reward model in this DPO run". It is not missing; and what it would be if someone added one.

python examples/cases/25_the_reward_model_is_missing.py
"""

from __future__ import annotations

import torch
from micro_dpo import World, case_of, said, train

from assent.diagnosis.case import make_case
from assent.diagnosis.examine import examine
from assent.diagnosis.rule import DPO, ROUNDS
from assent.diagnosis.rules import all_rules

BETA = 0.1


def main() -> dict[str, object]:
    torch.set_num_threads(1)
    world = World()
    log, weights = train(world, beta=BETA)
    report = examine(case_of(log, beta=BETA))
    print("\n".join(said(report)))
    asked_for = {reason for _, reason in report.not_checked if "objective/scores" in reason}
    reads_scores = [
        r.name for r in all_rules() if "objective/scores" in r.names and r.stages & DPO and not r.stages & ROUNDS
    ]
    print(f"metrics of a reward model that the doctor misses in a DPO run: {len(asked_for)}; rules "
          f"of DPO that read one: "
          f"{len(reads_scores)}")  # fmt: skip

    implicit = BETA * (world.logps(weights) - world.logps(world.start))
    first, second = world.chosen, world.rejected
    ranks = float((implicit[first] > implicit[second]).float().mean())
    print(
        f"\nThe policy is the reward model: beta log(policy / reference) ranks {ranks:.0%} of the pairs as people do."
    )

    # A reward that this policy is optimal for: r = beta (log pi - log pi_ref) + beta log Z, with any Z
    for log_z in (0.0, 7.0):
        r = implicit + BETA * log_z
        best = (world.logps(world.start) + r / BETA).log_softmax(0)
        gap = float((best - world.logps(weights)).abs().max())
        print(
            f"With log Z = {log_z:g} the first pair's rewards are {r[first[0]]:+.2f} and {r[second[0]]:+.2f}, "
            f"apart by {r[first[0]] - r[second[0]]:+.2f};\nthe policy that maximises it differs by {gap:.0e}."
        )
    print(
        "Z cancels in the difference, which is all that the loss reads. The price: it learns from the answers in the\n"
        "file alone (coverage). What no pair holds is moved by what it has in common with them, right or wrong."
    )

    # Someone adds a reward model and samples: the log now has scores of the policy's own answers.
    scores = [float(world.gold @ world.logps(world.start + (weights - world.start) * i / 60).exp()) for i in range(60)]
    steps = list(range(1, 61))
    columns = {name: (steps, [row[name] for row in log]) for name in ("loss", "rewards/margins", "logps/chosen")}
    online = make_case({**columns, "objective/scores": (steps, scores)}, config={"beta": BETA}, status="finished")
    print(f"With `objective/scores` in the log the doctor takes the run for {online.stage}, no "
          f"longer for dpo: it has to be\n"
          "called online, since pairs are then drawn from the policy and labelled by a model that "
          "can be exploited: RLHF\nby another loss, with its cost of sampling.")  # fmt: skip
    return {"verdict": report.verdict, "missed": len(asked_for), "ranks": ranks, "online": online.stage,
            "offline": report.case.stage}  # fmt: skip


if __name__ == "__main__":
    main()
