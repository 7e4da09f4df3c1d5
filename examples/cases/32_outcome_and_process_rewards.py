"""Case 32: outcome against process rewards, on a task with steps that is small enough to enumerate.

An answer takes three right steps. At each point the writer chooses a right step, a wrong one, one that is correct but
useless, or to answer. After eight choices the page is full. Two wrong steps cancel out, so an answer can be right by
luck. The same policy learns by GRPO (groups of 8) from one of these rewards:

    outcome    1 for a right answer
    marks      1 for each correct step, -1 for each wrong one, and 1 or -1 for the answer: what a process model says
    progress   what the step changed: 1/3 for a step forward, 0 for a useless one, -1 for a wrong one; and the answer
    in place   the same numbers, added up and given at the end: an outcome reward that knows the steps

    python examples/cases/32_outcome_and_process_rewards.py
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from assent.objectives import ppo_loss
from assent.objectives.advantages import ADVANTAGES, Episodes

RIGHT, WRONG, IDLE, ANSWER = range(4)
NEEDED, LENGTH = 3, 8
GROUPS, K, RATE, SEEDS = 8, 8, 2.0, (0, 1, 2)
ROUNDS = (8, 100)
SOURCES = ("outcome", "marks", "progress", "in place")


class Written(NamedTuple):
    """tokens, mask (S, L); states (S, L) before each choice; solved (S,): right; lucky (S,): right with wrong steps."""

    tokens: Tensor
    mask: Tensor
    states: Tensor
    solved: Tensor
    lucky: Tensor


class Answers(NamedTuple):
    """A policy's exact figures: chance of a right answer, share of these with wrong steps, mean choices made."""

    solved: float
    lucky: float
    length: float


def follow(tokens: Tensor) -> Written:
    """(S, LENGTH) choices -> what was written. Everything after an answer is masked."""
    forward, wrong = torch.zeros(len(tokens), dtype=torch.long), torch.zeros(len(tokens), dtype=torch.long)
    alive, solved = torch.ones(len(tokens), dtype=torch.bool), torch.zeros(len(tokens), dtype=torch.bool)
    masks, states = [], []
    for choice in tokens.T:
        masks.append(alive)
        states.append(forward * 2 + wrong % 2)
        solved = solved | (alive & (choice == ANSWER) & (forward == NEEDED) & (wrong % 2 == 0))
        forward = (forward + (alive & (choice == RIGHT)).long()).clamp(max=NEEDED)
        wrong = wrong + (alive & (choice == WRONG)).long()
        alive = alive & (choice != ANSWER)
    return Written(tokens, torch.stack(masks, 1), torch.stack(states, 1), solved, solved & (wrong > 0))


def rewards_of(source: str, written: Written) -> tuple[Tensor, Tensor | None]:
    """(S, L) rewards, and where steps end; None for a reward that is given only at the end."""
    tokens, mask = written.tokens, written.mask
    last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    answered = torch.where(written.solved, 1.0, -1.0)[:, None] * (last & (tokens == ANSWER))
    if source == "outcome":
        return last * written.solved[:, None].float(), None
    if source == "marks":
        steps = torch.where(tokens == WRONG, -1.0, 1.0)
    else:
        forward = (tokens == RIGHT) & (written.states < 2 * NEEDED)
        steps = torch.where(tokens == WRONG, -1.0, forward / NEEDED)
    rewards = torch.where(mask & (tokens != ANSWER), steps, 0.0) + answered
    if source == "in place":
        return last * rewards.sum(1, keepdim=True), None
    return rewards, mask


def chosen(logits: Tensor, written: Written) -> Tensor:
    """(S, L) log-probability of each choice; zero after the answer."""
    logp = logits.log_softmax(1)[written.states].gather(2, written.tokens[:, :, None])[:, :, 0]
    return torch.where(written.mask, logp, 0.0)


def write(logits: Tensor, generator: torch.Generator) -> Written:
    tokens = torch.full((GROUPS * K, LENGTH), ANSWER)
    for place in range(LENGTH):
        probabilities = logits.softmax(1)[follow(tokens).states[:, place]]
        tokens[:, place] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    return follow(tokens)


def learn(source: str, seed: int, rounds: int) -> Tensor:
    """The policy's table after `rounds` rounds of one update each."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(2 * (NEEDED + 1), 4, requires_grad=True)
    prompt = torch.arange(GROUPS * K) // K
    for _ in range(rounds):
        written = write(logits.detach(), generator)
        rewards, ends = rewards_of(source, written)
        episodes = Episodes(rewards=rewards, mask=written.mask, prompt=prompt, step_ends=ends)
        advantages, _ = ADVANTAGES["group"](episodes, scale_rewards="group")
        logp = chosen(logits, written)
        losses, _ = ppo_loss(logp, logp.detach(), advantages, written.mask, cliprange=0.2)
        (gradient,) = torch.autograd.grad(losses.sum() / len(losses), logits)
        logits.data -= RATE * gradient
    return logits.detach()


def every_page() -> Written:
    """Every possible page, once: full pages, and shorter ones that end with an answer."""
    pages = []
    for length in range(1, LENGTH + 1):
        rows = torch.tensor(list(product((RIGHT, WRONG, IDLE), repeat=length - 1)), dtype=torch.long)
        last = torch.tensor([ANSWER] if length < LENGTH else [RIGHT, WRONG, IDLE, ANSWER])
        full = torch.full((len(rows), len(last), LENGTH), ANSWER)
        full[:, :, : length - 1] = rows[:, None]
        full[:, :, length - 1] = last
        pages.append(full.reshape(-1, LENGTH))
    return follow(torch.cat(pages))


def exactly(logits: Tensor, pages: Written) -> Answers:
    p = chosen(logits.double(), pages).sum(1).exp()
    assert abs(float(p.sum()) - 1.0) < 1e-9
    solved = float(p @ pages.solved.double())
    return Answers(solved, float(p @ pages.lucky.double()) / solved, float(p @ pages.mask.sum(1).double()))


def main() -> dict[str, Answers | float]:
    pages = every_page()
    start = exactly(torch.zeros(2 * (NEEDED + 1), 4), pages)
    silent = (1 - start.solved) ** K + start.solved**K
    found: dict[str, Answers | float] = {"start": start, "silent": silent}
    print(f"At the start {start.solved:.1%} of the answers are right, {start.lucky:.0%} of those by luck;")
    print(f"an outcome reward says nothing of {silent:.0%} of the groups of {K}, whose completions all score alike.\n")
    head = "".join(f"{f'{n} rounds: right':>18}{'by luck':>9}{'length':>8}" for n in ROUNDS)
    print(f"{'learned from':<14}{head}")
    for source in SOURCES:
        row = f"{source:<14}"
        for rounds in ROUNDS:
            ends = [exactly(learn(source, seed, rounds), pages) for seed in SEEDS]
            mean = Answers(*(sum(column) / len(SEEDS) for column in zip(*ends, strict=True)))
            found[f"{source} {rounds}"] = mean
            row += f"{mean.solved:>18.1%}{mean.lucky:>9.1%}{mean.length:>8.2f}"
        print(row)
    print(
        "\nAnswer: rewards of steps get there in fewer samples: every completion says something, each step is credited"
        "\nby itself, and luck is not paid for. An outcome reward pays for every right answer, however it came about."
        "\nBut a mark for each correct step pays for steps: the page is filled and never answered. Reward what a step"
        "\nchanges (or shape by a potential), not that there is one."
    )
    return found


if __name__ == "__main__":
    main()
