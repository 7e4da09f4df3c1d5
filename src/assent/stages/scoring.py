"""Objectives of reward models, for rankings (a comparison has K = 2), single completions and successive steps; and the
learners of an ensemble of adapters.

Legend: G groups, S completions, N counted tokens, M members of an ensemble (heads).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assent.config.loss_options import LossEntry
from assent.config.losses import RANKING_LOSSES
from assent.engine.learner import Learner, Objective
from assent.engine.random import generator
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.one_trunk import side_by_side
from assent.objectives.ranking import centring_penalty, ranking_loss, score_loss

ObjectiveSums = tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]
"""The return value of an objective (`engine.sums.Objective`): each term's sum; each metric's sum and count."""
TARGET, STEP_TARGET, LAST_STEP_TARGET = "score", "step_label", "last_step_label"
BOOTSTRAP = "bootstrap_{}"


class RankingObjective:
    """The weighted sum of registered losses of rankings (bradley_terry by default), averaged over the step's groups.
    Every group counts once, times its weight.

    An ensemble's loss is the mean over its members, each with its own bootstrap weights if there are any. Accuracy and
    margin are those of the members' mean score.
    """

    want = frozenset({"scores"})

    def __init__(self, *losses: LossEntry, centring: float = 0.0) -> None:
        self.losses, self.centring = losses or (LossEntry(name="bradley_terry"),), centring
        self.depends_on_size = any(_depends_on_size(entry) for entry in self.losses)

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        names = [entry.name for entry in self.losses] + (["centring"] if self.centring else [])
        return dict.fromkeys(names, float(pair_weights(batch).sum()))

    def __call__(self, outputs: Outputs, batch: GroupBatch) -> ObjectiveSums:
        assert outputs.scores is not None
        scores = outputs.scores.float().view(batch.num_completions, -1)  # (S, M)
        members, ranks = scores.shape[1], batch.completion["rank"]
        # The batch is repeated M times: member m's groups are m G … (m + 1) G - 1.
        group = torch.cat([batch.group + m * batch.num_groups for m in range(members)])
        weights = pair_weights(batch) * member_weights(batch, members) / members  # (M, G)
        sums: dict[str, Tensor] = {}
        for entry in self.losses:
            values = _values(entry, batch, scores=scores.T.reshape(-1), ranks=ranks.repeat(members), group=group)
            sums[entry.name] = entry.weight * (values.view(members, -1) * weights).sum()
        if self.centring:
            penalty = centring_penalty(scores.T.reshape(-1), group).view(members, -1)
            sums["centring"] = self.centring * (penalty * weights).sum()
        mean = scores.detach().mean(1)
        _, found = ranking_loss(
            "all_pairs", scores=mean, ranks=ranks, group=batch.group
        )  # the metrics are the same for every loss
        ordered = found["ordered"].sum()
        metrics = {name: (found[name].sum(), ordered) for name in ("accuracy", "margin")}
        if self.depends_on_size:  # what a coin's loss is, as nothing else in the log tells how many were ranked
            zeros, whole = torch.zeros_like(mean), pair_weights(batch)
            equal = [
                entry.weight * (_values(entry, batch, scores=zeros, ranks=ranks, group=batch.group) * whole).sum()
                for entry in self.losses
            ]
            metrics["loss_at_equal_scores"] = (torch.stack(equal).sum(), whole.sum())
        return sums, metrics | _reward_metrics(scores)


def _values(entry: LossEntry, batch: GroupBatch, *, scores: Tensor, ranks: Tensor, group: Tensor) -> Tensor:
    """(M G,) the loss of each ranking, for the scores of M members one after another."""
    members = len(scores) // batch.num_completions
    hyperparameters: dict[str, Any] = dict(entry.hyperparameters)
    optional = {name: numbers.repeat(members) for name, numbers in _optional(batch, entry.name).items()}
    values, _ = ranking_loss(entry.name, scores=scores, ranks=ranks, group=group, **optional, **hyperparameters)
    return values


def _depends_on_size(entry: LossEntry) -> bool:
    """Whether the loss of equal scores depends on how many completions are ranked: ln n! of Plackett–Luce does."""
    at_zero = partial(RANKING_LOSSES[entry.name].zero_margin_value, **entry.hyperparameters)
    return at_zero(num_completions=2) != at_zero(num_completions=3)


class ScoreObjective:
    """A registered loss of single labels: of completions, read at the last token, or of steps, read at their ends."""

    def __init__(self, loss: str, *, process: bool = False) -> None:
        self.loss, self.process = loss, process
        self.want = frozenset({"values", "last_values"} if process else {"scores"})

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        targets, group = self._targets(batch)
        return {self.loss: float(pair_weights(batch)[group[~targets.isnan()]].sum())}

    def __call__(self, outputs: Outputs, batch: GroupBatch) -> ObjectiveSums:
        targets, group = self._targets(batch)
        scores = self._scores(outputs).view(len(targets), -1)  # (labels, M)
        labelled = ~targets.isnan()
        scores, targets, group = scores[labelled], targets[labelled], group[labelled]
        members = scores.shape[1]
        values, found = score_loss(self.loss, scores=scores.T.reshape(-1), targets=targets.repeat(members))
        weights = (pair_weights(batch) * member_weights(batch, members) / members)[:, group]  # (M, labels)
        count = values.new_tensor(float(len(values)))
        metrics = {name: (metric.sum(), count) for name, metric in found.items()}
        return {self.loss: (values.view(members, -1) * weights).sum()}, metrics | _reward_metrics(scores)

    def _targets(self, batch: GroupBatch) -> tuple[Tensor, Tensor]:
        """The labels, and the group of each. A label is NaN if its token does not end a step."""
        if not self.process:
            return batch.completion[TARGET], batch.group
        # `values` are read before each token, so a step's label is at the token that follows the step.
        targets = torch.cat([batch.token[STEP_TARGET], batch.completion[LAST_STEP_TARGET]])
        return targets, torch.cat([batch.group[batch.sequence], batch.group])

    def _scores(self, outputs: Outputs) -> Tensor:
        if not self.process:
            assert outputs.scores is not None
            return outputs.scores.float()
        assert outputs.values is not None
        assert outputs.last_values is not None
        return torch.cat([outputs.values.float(), outputs.last_values.float()])


def pair_weights(batch: GroupBatch) -> Tensor:
    """(G,) the rows' weights; 1 if the data has none."""
    if "weight" in batch.value:
        return batch.value["weight"]
    return torch.ones(batch.num_groups, device=batch.input_ids.device)


def member_weights(batch: GroupBatch, members: int) -> Tensor:
    """(M, G) how often each member's bootstrap sample holds each group; 1 without a bootstrap."""
    names = [BOOTSTRAP.format(m) for m in range(members)]
    if names[0] not in batch.value:
        return torch.ones(members, batch.num_groups, device=batch.input_ids.device)
    return torch.stack([batch.value[name] for name in names])


def with_bootstrap(groups: Sequence[TokenGroup], *, members: int, seed: int) -> list[TokenGroup]:
    """Adds a weight for each member, drawn from Poisson(1): the online bootstrap (Oza and Russell, AISTATS 2001)."""
    drawn = torch.poisson(torch.ones(len(groups), members), generator=generator(seed, "bootstrap")).tolist()
    return [
        replace(group, value={**group.value, **{BOOTSTRAP.format(m): weight for m, weight in enumerate(weights)}})
        for group, weights in zip(groups, drawn, strict=True)
    ]


def with_step_targets(group: TokenGroup) -> TokenGroup:
    """Moves the labels of steps to where `values` and `last_values` read the state after each step's last token."""
    labels = group.token[STEP_TARGET]
    moved = [np.concatenate([[np.nan], per_token[:-1]]) for per_token in labels]
    last = np.array([per_token[-1] for per_token in labels])
    return replace(group, token={STEP_TARGET: moved}, completion={**group.completion, LAST_STEP_TARGET: last})


def _optional(batch: GroupBatch, loss: str) -> dict[str, Tensor]:
    accepted = RANKING_LOSSES[loss].accepts & {"margin", "chosen_probability"}
    return {name: batch.value[name] for name in accepted if name in batch.value}


def _reward_metrics(scores: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Metrics of (S, M) scores."""
    scores = scores.detach()
    count = scores.new_tensor(float(len(scores)))
    metrics = {"mean_reward": (scores.mean(1).sum(), count)}
    if scores.shape[1] > 1:
        metrics["ensemble_std"] = (scores.std(1, correction=0).sum(), count)
    return metrics


SUMMED = ("perf/step_seconds", "perf/micro_batches")


class Members:
    """The learners of an ensemble of adapters, used as one: each is updated on the same rows, one after another.

    They share only the trunk's frozen weights. Optimisers and clipping are separate, so each member becomes what it
    would become alone. Activations are in memory for one member at a time.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = learners

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs:
        """Like `Learner.read`, with a column for each member."""
        return side_by_side([learner.read(groups, want=want) for learner in self.learners], want)

    def update(self, groups: Sequence[TokenGroup], objective: Objective) -> dict[str, float]:
        """Updates each member, with its own bootstrap weights if there are any. Metrics are means over the members;
        time and micro-batches are sums."""
        updates = [
            learner.update([of_member(group, number) for group in groups], objective)
            for number, learner in enumerate(self.learners)
        ]
        metrics = {name: sum(one[name] for one in updates) / len(updates) for name in updates[0]}
        metrics |= {name: metrics[name] * len(updates) for name in SUMMED}
        seconds = [one["perf/step_seconds"] for one in updates]
        busy = sum(one["perf/mfu"] * spent for one, spent in zip(updates, seconds, strict=True))
        metrics["perf/mfu"] = busy / sum(seconds)
        metrics["perf/tokens_per_second"] = sum(group.num_tokens for group in groups) / sum(seconds)
        return metrics


def of_member(group: TokenGroup, number: int) -> TokenGroup:
    """The group with only this member's bootstrap weight, stored as a single head's. Unchanged without a bootstrap."""
    if BOOTSTRAP.format(number) not in group.value:
        return group
    rest = {name: value for name, value in group.value.items() if not name.startswith(BOOTSTRAP.format(""))}
    return replace(group, value={**rest, BOOTSTRAP.format(0): group.value[BOOTSTRAP.format(number)]})
