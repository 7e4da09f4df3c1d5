"""Case 20: PPO makes good updates, then one wrecks the model. Clip, KL, learning rate or advantage scale: which was it?

The world is small enough to enumerate, so the model's true worth is known after every round. The reward model overpays
one completion that the reference hardly ever gives and that is worth nothing.

    python examples/cases/20_instability.py
"""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor

from assent.diagnosis.case import make_case
from assent.diagnosis.examine import examine
from assent.diagnosis.fix import changes as changes_of
from assent.objectives import kl, ppo_loss, token_rewards, whiten
from assent.sandbox.microworld import MicroWorld

WORLD = MicroWorld(vocabulary=6, length=2, seed=1)
TOKENS = torch.tensor(WORLD.completions)
STATES = torch.cat([torch.full((len(TOKENS), 1), WORLD.end), TOKENS[:, :1]], dim=1)
"""A token's state is the token before it. At the start it is the row of the end token."""
MASK = torch.stack([torch.ones(len(TOKENS), dtype=torch.bool), TOKENS[:, 0] != WORLD.end], dim=1)
REFERENCE, GOLD = torch.tensor(WORLD.transitions), torch.tensor(WORLD.reward)
OVERPAID = int(torch.where(GOLD <= 0.3, torch.tensor(WORLD.reference), torch.inf).argmin())
HEALTHY = {"cliprange": 0.2, "kl_coef": 0.4, "rate": 2.0, "epochs": 4.0, "whitened": 1.0, "unit": 1.0}
STRAIN = {"epochs": 40.0}
INCIDENTS = {  # what was changed, and a seed with which it went wrong
    "clip": (STRAIN | {"cliprange": 0.0}, 0),
    "KL": (STRAIN | {"kl_coef": 0.0}, 2),
    "learning rate": ({"rate": 60.0}, 0),
    "advantage scale": ({"whitened": 0.0, "unit": 60.0}, 3),
    "nothing": ({}, 0),
}
ARMS = {
    "clip and KL": STRAIN,
    "clip alone": STRAIN | {"kl_coef": 0.0},
    "KL alone": STRAIN | {"cliprange": 0.0},
    "neither": STRAIN | {"cliprange": 0.0, "kl_coef": 0.0},
}
WRECKED, FAR_STEP, LARGE_UNIT = 0.2, 0.5, 5.0
"""Limits: gold lost since the best round; nats per token of one round's updates; standard deviation of scores."""
ROUNDS, SAMPLES, SEEDS = 60, 128, range(5)
OPTIONS = {"kl_coef": "kl_coef", "learning_rate": "rate", "num_ppo_epochs": "epochs"}
"""Options of a run, and what they are called here."""
Log = list[dict[str, float]]


def tokenwise(logits: Tensor) -> Tensor:
    """(S, 2) log-probability of each token of every completion; zero after the end."""
    return torch.where(MASK, logits.log_softmax(1)[STATES, TOKENS], 0.0)


def train(changes: dict[str, float], seed: int = 0) -> Log:
    """PPO on a table of logits with the package's parts.

    Returns what a run logs in each round, and the model's true worth.
    """
    options = HEALTHY | changes
    generator = torch.Generator().manual_seed(seed)
    reward = GOLD.clone()
    reward[OVERPAID] = 1.2
    logits, log = REFERENCE.clone().requires_grad_(), []
    for _ in range(ROUNDS):
        now = tokenwise(logits.detach())
        rows = torch.multinomial(now.sum(1).exp(), SAMPLES, replacement=True, generator=generator)
        old, mask = now[rows], MASK[rows]
        divergence = kl("k1", old, tokenwise(REFERENCE)[rows])
        rewards = options["unit"] * token_rewards(divergence, reward[rows], mask, kl_coef=options["kl_coef"])
        to_come = rewards.flip(1).cumsum(1).flip(1)
        centred = to_come - to_come[mask].mean()
        advantages = whiten(to_come, mask, mean=True, std=True) if options["whitened"] else centred
        for _ in range(int(options["epochs"])):
            losses, found = ppo_loss(tokenwise(logits)[rows], old, advantages, mask, cliprange=options["cliprange"])
            (gradient,) = torch.autograd.grad(losses.sum() / SAMPLES, logits)
            with torch.no_grad():
                logits -= options["rate"] * gradient
        ratio = torch.where(mask, tokenwise(logits.detach())[rows] - old, 0.0)
        log.append(
            {
                "objective/scores": options["unit"] * float(reward[rows].mean()),
                "objective/scores_std": options["unit"] * float(reward[rows].std()),
                "objective/kl": float(divergence.sum(1).mean()),
                "policy/approxkl_avg": float(ratio.square()[mask].mean() / 2),
                "policy/approxkl_k3": float((torch.expm1(ratio) - ratio)[mask].mean()),
                "policy/clipfrac_avg": float(found["policy/clipfrac_avg"][mask].mean()),
                "gold/total": float(now.sum(1).exp() @ GOLD),
            }
        )
    return log


def convict(log: Log) -> str:
    """Which of the four causes the log points to, if the model lost worth; "nothing" if it did not.

    Gold says when the damage happened. The run's log says why.
    """
    gold = [row["gold/total"] for row in log]
    if fall_of(log) < WRECKED:
        return "nothing"
    at = max(range(1, len(log)), key=lambda i: gold[i - 1] - gold[i])
    if log[at - 1]["policy/approxkl_k3"] < FAR_STEP:
        return "KL"  # small steps, and they add up: nothing pulls back
    if not any(row["policy/clipfrac_avg"] for row in log):
        return "clip"
    return "advantage scale" if log[0]["objective/scores_std"] > LARGE_UNIT else "learning rate"


def fall_of(log: Log) -> float:
    """The largest loss of gold between the best round so far and a later one."""
    gold = [row["gold/total"] for row in log]
    return max(max(gold[:i]) - gold[i] for i in range(1, len(gold)))


def asked(log: Log, changes: dict[str, float]) -> tuple[str, str, dict[str, float]]:
    """The doctor's gravest finding, its change of options, and the run's changes with it."""
    options = HEALTHY | changes
    columns = {name: ([*range(1, len(log) + 1)], [row[name] for row in log]) for name in log[0]}
    config = {name: int(options[ours]) if ours == "epochs" else options[ours] for name, ours in OPTIONS.items()}
    grave = [one for one in examine(make_case(columns, config=config, stage="ppo")).findings if one.severity != "info"]
    made = changes_of(config, grave[:1])
    changed = changes | {OPTIONS[one.option]: float(one.after) for one in made}
    return grave[0].rule if grave else "healthy", ", ".join(one.text() for one in made), changed


def main() -> dict[str, dict[str, float | str]]:
    torch.set_num_threads(1)
    found: dict[str, dict[str, float | str]] = {}
    print(f"The reference's worth is {float(torch.tensor(WORLD.reference).exp() @ GOLD):.2f}, the most is 1.")
    print(f"The completion that the reward model pays 1.2 is worth {float(GOLD[OVERPAID]):.1f}.\n")
    print(
        f"{'changed':15s} {'worth: best':>11s} {'last':>5s} {'largest step, nats':>18} {'KL, last':>9} {'clipped':>7}"
    )
    for name, (changes, seed) in INCIDENTS.items():
        log = train(changes, seed)
        step = max(row["policy/approxkl_k3"] for row in log)
        clipped = fmean(row["policy/clipfrac_avg"] for row in log)
        verdict = convict(log)
        print(
            f"{name:15s} {max(row['gold/total'] for row in log):11.2f} {log[-1]['gold/total']:5.2f} {step:18.2f} "
            f"{log[-1]['objective/kl']:9.2f} {clipped:7.2f}   the log convicts: {verdict}"
        )
        found[name] = {"verdict": verdict, "fall": fall_of(log), "step": step}
    print("\nThe doctor's gravest finding on each log, its change, and the worth at the end with it; then once more:")
    for name, (changes, seed) in INCIDENTS.items():
        log, told, now = train(changes, seed), [], changes
        for _ in range(2):
            rule, change, now = asked(log, now)
            log = train(now, seed)
            told.append((rule, change, log[-1]["gold/total"]))
        print(
            f"{name:15s} " + "; then ".join(f"{rule} ({change or 'none'}): {gold:.2f}" for rule, change, gold in told)
        )
        found[f"doctor: {name}"] = {"rule": told[0][0], "first": told[0][2], "second": told[1][2]}
    print(f"\nAblation, {STRAIN['epochs']:.0f} epochs on each round, {len(SEEDS)} seeds:")
    for name, changes in ARMS.items():
        logs = [train(changes, seed) for seed in SEEDS]
        falls = [fall_of(log) for log in logs]
        row: dict[str, float | str] = {
            "wrecked": float(sum(fall >= WRECKED for fall in falls)),
            "fall": max(falls),
            "step": max(row["policy/approxkl_k3"] for log in logs for row in log),
            "kl": max(log[-1]["objective/kl"] for log in logs),
        }
        last = " ".join(f"{log[-1]['gold/total']:.2f}" for log in logs)
        print(
            f"{name:12s} wrecked {row['wrecked']:.0f} of {len(SEEDS)}; worth at the end {last}; a round's step at most "
            f"{row['step']:6.2f} nats per token, KL at the end at most {row['kl']:.2f}"
        )
        found[name] = row
    print(
        "\nThe clip bounds the step of a round, not the distance from the reference: without it one round goes tens\n"
        "of nats. The KL penalty bounds the distance, not the step: without it small steps walk to what is overpaid,\n"
        "or do not, by luck. A rate or an advantage that is too large steps too far at once, before any clip binds.\n"
        "The doctor tells the two apart and mends them by options; which of three options made a step too large, the\n"
        "log above tells: whether any ratio met the clip, and the unit of the scores. Of the run in which nothing was\n"
        "changed it says that many ratios are clipped, which cost nothing here."
    )
    return found


if __name__ == "__main__":
    main()
