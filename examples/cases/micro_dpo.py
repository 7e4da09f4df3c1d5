"""DPO on forty answers with embeddings, small enough to enumerate: what a run logs. Cases 25, 26 and 36 use it.

A policy is softmax(E w): answers with similar embeddings move together, as they do in a language model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from assent.diagnosis.case import Case, make_case
from assent.diagnosis.doctor_text import lines_of_finding
from assent.diagnosis.examine import Report
from assent.objectives import preference_loss

ANSWERS, WIDTH, PAIRS, BATCH = 40, 12, 256, 32
Log = list[dict[str, float]]


class World:
    """Answers, what people want of them, and pairs. `twins`: the answers of a pair differ in little."""

    def __init__(self, *, twins: bool = False, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.embeddings = torch.randn(ANSWERS, WIDTH, generator=draw)
        if twins:  # two of a kind side by side, far from the rest
            self.embeddings[1::2] = self.embeddings[::2] + 0.05 * torch.randn(ANSWERS // 2, WIDTH, generator=draw)
        self.gold = self.embeddings @ torch.randn(WIDTH, generator=draw)
        self.start = 0.3 * torch.randn(WIDTH, generator=draw)
        first = torch.randint(0, ANSWERS, (PAIRS,), generator=draw)
        second = first ^ 1 if twins else (first + torch.randint(1, ANSWERS, (PAIRS,), generator=draw)) % ANSWERS
        better = self.gold[first] > self.gold[second]
        self.chosen, self.rejected = torch.where(better, first, second), torch.where(better, second, first)

    def logps(self, weights: Tensor) -> Tensor:
        """(ANSWERS,) log-probabilities."""
        return (self.embeddings @ weights).log_softmax(0)


def train(
    world: World, *, beta: float = 0.1, rate: float = 0.3, steps: int = 60, reference: str = "start", swap: bool = False
) -> tuple[Log, Tensor]:
    """DPO by gradient descent; what it logs, and the weights at the end.

    reference   start, none, policy, or follows: the policy of every fifteenth step
    """
    weights, held = world.start.clone().requires_grad_(), world.start
    draw = torch.Generator().manual_seed(1)
    log: Log = []
    for step in range(1, steps + 1):
        rows = torch.randint(0, PAIRS // 2, (BATCH,), generator=draw)
        chosen, rejected = world.chosen[rows], world.rejected[rows]
        if swap:
            chosen, rejected = rejected, chosen
        now = world.logps(weights)
        if reference == "policy" or (reference == "follows" and step % 15 == 0):
            held = weights.detach().clone()
        fixed = torch.zeros(ANSWERS) if reference == "none" else world.logps(held)
        losses, _ = preference_loss(
            "sigmoid", chosen=now[chosen], rejected=now[rejected], reference_chosen=fixed[chosen],
            reference_rejected=fixed[rejected], beta=beta,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(losses.mean(), weights)
        held_out = slice(PAIRS // 2, None)
        with torch.no_grad():
            rewards = beta * (now - fixed)
            margin = rewards[chosen] - rewards[rejected]
            own = now - world.logps(world.start)
            log.append(
                {
                    "step": step,
                    "loss": float(losses.mean()),
                    "rewards/chosen": float(rewards[chosen].mean()),
                    "rewards/rejected": float(rewards[rejected].mean()),
                    "rewards/margins": float(margin.mean()),
                    "rewards/accuracies": float((margin > 0).float().mean()),
                    "logps/chosen": float(now[chosen].mean()),
                    "logps/rejected": float(now[rejected].mean()),
                    "eval_logps/chosen": float(now[world.chosen[held_out]].mean()),
                    "eval_rewards/chosen": float(rewards[world.chosen[held_out]].mean()),
                    "grad_norm": float(gradient.norm()),
                    "eval_rewards/accuracies": float(
                        (own[world.chosen[held_out]] > own[world.rejected[held_out]]).float().mean()
                    ),
                }
            )
            weights -= rate * gradient
    return log, weights.detach()


def case_of(log: Log, *, beta: float, hidden: Sequence[str] = (), **options: Any) -> Case:
    """What the doctor sees of a log."""
    steps = [int(row["step"]) for row in log]
    columns: Mapping[str, Any] = {
        name: (steps, [row[name] for row in log]) for name in log[0] if name != "step" and name not in hidden
    }
    config = {"loss_type": "sigmoid", "beta": beta, **options}
    return make_case(columns, config=config, stage="dpo", status="finished", planned_steps=len(log))


def said(report: Report) -> list[str]:
    """The doctor's findings as text, without what was not checked."""
    lines = [line for finding in report.findings for line in lines_of_finding(finding, report.case)]
    return lines or [f"the doctor: {report.verdict}, {len(report.checked)} rules asked"]


def fingerprint(weights: Tensor) -> str:
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]
