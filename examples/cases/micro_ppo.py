"""PPO on a world that is small enough to enumerate: what a run logs, and the model's true worth. Cases 21 to 24 use it.

With `paid` the reward model overpays one completion that the reference hardly ever gives and that is worth little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from assent.diagnosis.case import Case, make_case
from assent.diagnosis.doctor_text import lines_of_finding
from assent.diagnosis.examine import Report
from assent.objectives import kl, ppo_loss, token_rewards
from assent.sandbox.microworld import MicroWorld

WORLD = MicroWorld(vocabulary=6, length=2, seed=1)
TOKENS = torch.tensor(WORLD.completions)
STATES = torch.cat([torch.full((len(TOKENS), 1), WORLD.end), TOKENS[:, :1]], dim=1)
"""A token's state is the token before it. At the start it is the row of the end token."""
MASK = torch.stack([torch.ones(len(TOKENS), dtype=torch.bool), TOKENS[:, 0] != WORLD.end], dim=1)
REFERENCE, GOLD = torch.tensor(WORLD.transitions), torch.tensor(WORLD.reward)
OVERPAID = int(torch.where(GOLD <= 0.3, torch.tensor(WORLD.reference), torch.inf).argmin())
HEALTHY: dict[str, float] = {
    "cliprange": 0.2, "kl_coef": 0.1, "rate": 1.0, "epochs": 2.0, "unit": 1.0, "paid": 0.0, "samples": 128.0,
    "rounds": 60.0, "kl_target": 0.0, "reference_moves": 0.0,
}  # fmt: skip
OURS = ("share_overpaid", "penalty_std")
"""Figures for the cases' own text: share of the overpaid answer, spread of the KL penalty among a round's answers."""
Log = list[dict[str, float]]


def tokenwise(logits: Tensor) -> Tensor:
    """(S, 2) log-probability of each token of every completion; zero after the end."""
    return torch.where(MASK, logits.log_softmax(1)[STATES, TOKENS], 0.0)


def proxy(paid: float) -> Tensor:
    """(S,) what the reward model gives: gold, but for one completion."""
    reward = GOLD.clone()
    reward[OVERPAID] = paid
    return reward


def train(changes: Mapping[str, float], seed: int = 0, kept: list[Tensor] | None = None) -> Log:
    """PPO on a table of logits with the package's parts. Returns a run's metrics in each round, and the true worth.

    kept   takes the samples of each round: places in TOKENS
    """
    options = HEALTHY | changes
    generator = torch.Generator().manual_seed(seed)
    reward, samples, kl_coef = proxy(options["paid"]), int(options["samples"]), options["kl_coef"]
    logits, log = REFERENCE.clone().requires_grad_(), []
    for step in range(1, int(options["rounds"]) + 1):
        now = tokenwise(logits.detach())
        rows = torch.multinomial(now.sum(1).exp(), samples, replacement=True, generator=generator)
        old, mask = now[rows], MASK[rows]
        if kept is not None:
            kept.append(rows)
        divergence = kl("k1", old, old if options["reference_moves"] else tokenwise(REFERENCE)[rows])
        rewards = options["unit"] * token_rewards(divergence, reward[rows], mask, kl_coef=kl_coef)
        to_come = rewards.flip(1).cumsum(1).flip(1)
        advantages = to_come - to_come[mask].mean()
        for _ in range(int(options["epochs"])):
            losses, found = ppo_loss(tokenwise(logits)[rows], old, advantages, mask, cliprange=options["cliprange"])
            (gradient,) = torch.autograd.grad(losses.sum() / samples, logits)
            with torch.no_grad():
                logits -= options["rate"] * gradient
        ratio = torch.where(mask, tokenwise(logits.detach())[rows] - old, 0.0)
        distance, weight = float(divergence.sum(1).mean()), options["unit"] * kl_coef
        if options["kl_target"]:  # Ziegler et al., arXiv:1909.08593, section 2.2, and faster
            kl_coef *= 1 + 0.5 * max(-0.2, min(0.2, distance / options["kl_target"] - 1))
        log.append(
            {
                "step": step,
                "objective/scores": options["unit"] * float(reward[rows].mean()),
                "objective/scores_std": options["unit"] * float(reward[rows].std()),
                "objective/kl": distance,
                "objective/entropy": float(-old.sum(1).mean()),
                "policy/approxkl_avg": float(ratio.square()[mask].mean() / 2),
                "policy/approxkl_k3": float((torch.expm1(ratio) - ratio)[mask].mean()),
                "policy/clipfrac_avg": float(found["policy/clipfrac_avg"][mask].mean()),
                "gold/total": float(now.sum(1).exp() @ GOLD),
                "share_overpaid": float((rows == OVERPAID).float().mean()),
                "penalty_std": weight * float(divergence.sum(1).std()),
            }
        )
    return log


def case_of(log: Log, *, hidden: Sequence[str] = (), stage: str = "ppo", **options: Any) -> Case:
    """What the doctor sees of a log. OURS are not logged; `hidden`: metrics that were not logged either."""
    names = [name for name in log[0] if name not in {"step", *OURS, *hidden}]
    steps = [int(row["step"]) for row in log]
    columns = {name: (steps, [row[name] for row in log]) for name in names}
    return make_case(columns, config=options, stage=stage, status="finished")


def said(report: Report) -> list[str]:
    """The doctor's findings as text, without what was not checked."""
    lines = [line for finding in report.findings for line in lines_of_finding(finding, report.case)]
    return lines or [f"the doctor: {report.verdict}, {len(report.checked)} rules asked"]
