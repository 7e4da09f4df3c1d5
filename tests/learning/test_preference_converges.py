"""Where preference optimisation ends: on an enumerable world, at π_ref·exp(r/β)/Z (arXiv:2305.18290, eq. 4).

The policy is a table (a logit for each completion, one token long), trained by the Learner and the stage's objective on
every comparison or ranking, each as likely as the reward makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch import nn

from assent.config.loss_options import LossEntry
from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.models.batch import GroupBatch, Outputs, TokenCompletion, TokenGroup
from assent.sandbox.microworld import MicroWorld
from assent.stages.preference import PreferenceObjective
from assent.stages.references import REFERENCE
from tests.support.engine import Settings

BETA = 0.3
WORLD = MicroWorld(vocabulary=3, length=2, seed=1)
NUMBER = len(WORLD.completions)
STEPS = 100


class Table(nn.Module):
    """log π of completion i, which is the token i + 1; the reference's at first."""

    tier = "segments"

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.from_numpy(WORLD.reference).float())

    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        return Outputs(logprobs=self.logits.log_softmax(0)[batch.targets - 1])


def group(order: Sequence[int], *, weight: float = 1.0, **value: float) -> TokenGroup:
    """Completions of this order, the best first."""
    return TokenGroup(
        (NUMBER + 1,),
        tuple(TokenCompletion((i + 1,)) for i in order),
        completion={REFERENCE: WORLD.reference[list(order)], "rank": np.arange(1.0, len(order) + 1)},
        value={"weight": weight, **value},
    )


def sigma(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def pairs(reward: np.ndarray) -> list[TokenGroup]:
    """Every pair once, with the exact probability that the first wins."""
    return [group((i, j), chosen_probability=sigma(reward[i] - reward[j])) for i, j in combinations(range(NUMBER), 2)]


def both_ways(reward: np.ndarray) -> list[TokenGroup]:
    """Every ordered pair, weighted by how likely it is: for losses that take no soft labels."""
    return [group((i, j), weight=sigma(reward[i] - reward[j])) for i, j in permutations(range(NUMBER), 2)]


def rankings(reward: np.ndarray) -> list[TokenGroup]:
    """Every ranking of the first completion and two others, weighted by its Plackett–Luce probability."""
    found = []
    for three in ((0, i, j) for i, j in combinations(range(1, NUMBER), 2)):
        for order in permutations(three):
            worth = np.exp(reward[list(order)])
            found.append(group(order, weight=float(worth[0] / worth.sum() * worth[1] / worth[1:].sum())))
    return found


def trained(loss: str, groups: list[TokenGroup], **hyperparameters: float) -> np.ndarray:
    """The probabilities of all completions after training to convergence."""
    learner = Learner(
        Table(),
        runtime=Runtime("cpu"),
        optim=Settings(learning_rate=0.2, lr_scheduler_type="cosine", weight_decay=0.0),
        total_steps=STEPS,
    )
    objective = PreferenceObjective([LossEntry(name=loss, hyperparameters={"beta": BETA, **hyperparameters})])
    for _ in range(STEPS):
        learner.update(groups, objective)
    logits: torch.Tensor = learner.module.logits  # type: ignore[assignment]
    return logits.detach().double().softmax(0).numpy()


def total_variation(p: np.ndarray, log_q: np.ndarray) -> float:
    return float(0.5 * np.abs(p - np.exp(log_q)).sum())


CASES = [("sigmoid", pairs), ("plackett_luce", rankings), ("all_pairs", both_ways)]


@pytest.mark.parametrize(("loss", "make"), CASES, ids=[loss for loss, _ in CASES])
def test_it_ends_at_the_reference_tilted_by_the_reward(loss: str, make: object) -> None:
    optimum, _ = WORLD.optimum(BETA)
    found = trained(loss, make(WORLD.reward))  # type: ignore[operator]
    assert total_variation(found, optimum) <= 0.01
    assert total_variation(np.exp(WORLD.reference), optimum) > 0.1  # it had a way to go
    other, _ = WORLD.optimum(2 * BETA)
    assert total_variation(found, other) > 0.05  # and beta says how far


def test_a_reward_that_is_turned_round_ends_elsewhere() -> None:
    """The negative control."""
    optimum, _ = WORLD.optimum(BETA)
    assert total_variation(trained("sigmoid", pairs(-WORLD.reward)), optimum) > 0.2


def test_smoothed_labels_end_short_of_it() -> None:
    """cDPO does not recover the reward: what it believes of a label is drawn towards one half."""
    optimum, _ = WORLD.optimum(BETA)
    assert total_variation(trained("sigmoid", pairs(WORLD.reward), label_smoothing=0.2), optimum) > 0.02
