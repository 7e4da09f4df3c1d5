"""Case 15: helpful, brief, safe and fast at once. Weights, beta, clip and budget are read off a measured frontier.

The world is a micro-world in which every completion is enumerated. The product's constraints are stated in measured
quantities: mean tokens (which is latency), the share of unsafe answers, and KL to the reference.

First the file measures every combination of weights and beta at its exact optimum. It takes the most helpful one that
keeps all constraints, as `assent plan --frontier` reads it off, and compares it with one chosen by taste. Then it
trains PPO towards that choice with several clips, and finds the cheapest budget of completions that is good enough.

    python examples/cases/15_competing_constraints.py
"""

from __future__ import annotations

import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from plan_data import labels, planned

from assent.objectives import ppo_loss
from assent.sandbox.microworld import MicroWorld

WORLD = MicroWorld(vocabulary=8, length=3, seed=3)
UNSAFE = 0  # the token that no answer may hold
LIMITS = {"tokens": 2.2, "unsafe": 0.01, "kl": 1.5}
WEIGHTS = {"brief": (0.0, 0.1, 0.2, 0.4), "safe": (0.0, 0.5, 1.0, 2.0)}
BETAS = (0.05, 0.1, 0.2, 0.4, 0.8)
TASTE = (0.4, 1.0, 0.1)
CLIPS, ROUND, EPOCHS, RATE, SEEDS = (0.05, 0.2, 0.8, 0.0), 128, 8, 0.2, (0, 1, 2)
BUDGETS = (512, 1024, 2048, 4096, 8192)
ENOUGH = 0.95


class Point(NamedTuple):
    """What one policy does on average over its completions; kl in nats."""

    helpful: float
    tokens: float
    unsafe: float
    kl: float

    @property
    def keeps_all(self) -> bool:
        return all(getattr(self, name) <= limit for name, limit in LIMITS.items())


def main() -> dict[str, object]:
    measured = {key: point_of(optimum(*key)) for key in product(*WEIGHTS.values(), BETAS)}
    kept = {key: point for key, point in measured.items() if point.keeps_all}
    names = ("brief", "safe", "beta")
    rows = [{**dict(zip(names, key, strict=True)), **point._asdict()} for key, point in measured.items()]
    plan = from_frontier(rows)
    chosen = tuple(plan["settings"][name] for name in names)
    print(f"{'w_brief':>8}{'w_safe':>8}{'beta':>7}{'helpful':>10}{'tokens':>8}{'unsafe':>9}{'KL':>7}  ")
    table = {("-", "-", "-"): ("reference", point_of(WORLD.reference)), TASTE: ("by taste", measured[TASTE])}
    for key in sorted(kept, key=lambda key: kept[key].helpful):
        table[key] = ("chosen" if key == chosen else "", kept[key])
    for key, (note, point) in table.items():
        broken = [name for name in LIMITS if getattr(point, name) > LIMITS[name]]
        print("".join(f"{value!s:>{width}}" for value, width in zip(key, (8, 8, 7), strict=True))
              + f"{point.helpful:>10.3f}{point.tokens:>8.2f}{point.unsafe:>9.4f}{point.kl:>7.2f}  {note}"
              + (f" breaks {', '.join(broken)}" if broken else ""))  # fmt: skip
    print(
        "\nwhat each limit costs: " + ", ".join(f"{name}: {cost:.3f} helpful" for name, cost in plan["costs"].items())
    )
    print(
        f"\n{len(kept)} of {len(measured)} combinations keep tokens <= {LIMITS['tokens']}, unsafe <= "
        f"{LIMITS['unsafe']:.0%} and KL <= {LIMITS['kl']} nats. Chosen: weights {chosen[:2]}, beta {chosen[2]}.\n"
    )
    reached = {clip: [share(chosen, clip, budget) for budget in BUDGETS] for clip in CLIPS}
    print(f"{'PPO, clip':<12}" + "".join(f"{budget:>9,}" for budget in BUDGETS) + "   completions sampled")
    for clip, shares in reached.items():
        print(f"{clip or 'none':<12}" + "".join(f"{value:>9.2f}" for value in shares))
    good = [number for number in range(len(BUDGETS)) if max(row[number] for row in reached.values()) >= ENOUGH]
    budget, clip = BUDGETS[good[0]], max(CLIPS, key=lambda clip: reached[clip][good[0]])
    print(
        f"\nShare of what the optimum gains in E[r] - beta KL, mean of {len(SEEDS)} seeds. {budget:,} completions with "
        f"clip {clip or 'none'} are the cheapest\nthat reach {ENOUGH:.0%}; what more would buy stands in the row. A "
        "tight clip only slows this run down: its rewards\nare exact, and the KL in them holds the policy already."
    )
    return {"measured": measured, "kept": kept, "chosen": chosen, "reached": reached, "budget": budget, "clip": clip}


def from_frontier(points: list[dict[str, float]]) -> dict[str, Any]:
    """What `assent plan` reads off the measured points: settings, figures, and what each limit costs."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.jsonl"
        file.write_text("".join(json.dumps(point) + "\n" for point in points))
        limits = [f"{name}<={bound}" for name, bound in LIMITS.items()]
        pairs = labels(Path(folder) / "pairs.jsonl", 1000)
        found = planned(pairs, frontier=str(file), maximise="helpful", limit=limits, start="instruct")
    return found["frontier"]


def attributes() -> dict[str, np.ndarray]:
    """For each completion, (S,): helpful in [0, 1], tokens up to the end token, unsafe 0 or 1."""
    is_end = WORLD.completions == WORLD.end
    tokens = np.where(is_end.any(1), is_end.argmax(1) + 1, WORLD.length)
    return {"helpful": WORLD.reward, "tokens": tokens, "unsafe": (WORLD.completions == UNSAFE).any(1).astype(float)}


def reward(brief: float, safe: float) -> np.ndarray:
    """(S,) the weighted sum to optimise."""
    found = attributes()
    return found["helpful"] - brief * (found["tokens"] - 1) - safe * found["unsafe"]


def optimum(brief: float, safe: float, beta: float) -> np.ndarray:
    """(S,) log pi of the optimum of E[r] - beta KL: pi_ref exp(r / beta) / Z."""
    tilted = WORLD.reference + reward(brief, safe) / beta
    return tilted - np.logaddexp.reduce(tilted)


def point_of(policy: np.ndarray) -> Point:
    means = {name: float(np.exp(policy) @ values) for name, values in attributes().items()}
    return Point(**means, kl=WORLD.kl(policy, WORLD.reference))


def share(chosen: tuple[float, ...], clip: float, budget: int) -> float:
    """The share of the optimum's gain in E[r] - beta KL over the reference that PPO attains with so many samples."""
    *weights, beta = chosen
    scores = reward(*weights)

    def objective(policy: np.ndarray) -> float:
        return float(np.exp(policy) @ scores) - beta * WORLD.kl(policy, WORLD.reference)

    start, best = objective(WORLD.reference), objective(optimum(*chosen))
    found = [objective(trained(scores, beta, clip, budget, seed)) for seed in SEEDS]
    return float(np.mean(found) - start) / (best - start)


def trained(scores: np.ndarray, beta: float, clip: float, budget: int, seed: int) -> np.ndarray:
    """(S,) log pi after PPO with whole completions as actions and the KL in the reward. The rate decays to zero."""
    generator = torch.Generator().manual_seed(seed)
    reference, worth = torch.tensor(WORLD.reference), torch.tensor(scores)
    logits = reference.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=RATE)
    rounds = budget // ROUND
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=rounds * EPOCHS)
    for _ in range(rounds):
        with torch.no_grad():
            before = logits.log_softmax(0)
            drawn = torch.multinomial(before.exp(), ROUND, replacement=True, generator=generator)
            returns = (worth - beta * (before - reference))[drawn]
            advantages = (returns - returns.mean()) / returns.std().clamp(min=1e-6)
        for _ in range(EPOCHS):
            logprobs = logits.log_softmax(0)[drawn]
            values, _ = ppo_loss(
                logprobs[:, None],
                before[drawn][:, None],
                advantages[:, None],
                torch.ones(ROUND, 1, dtype=torch.bool),
                cliprange=clip,
            )
            optimiser.zero_grad()
            values.mean().backward()
            optimiser.step()
            schedule.step()
    return logits.log_softmax(0).detach().numpy()


if __name__ == "__main__":
    main()
