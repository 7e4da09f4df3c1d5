"""Objectives of reward models: rankings (comparisons are K = 2), single completions, successive steps.

Legend: G groups, S completions, N counted tokens, M members of an ensemble (heads).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assent.config.loss_options import LossEntry
from assent.config.losses import RANKING_LOSSES
from assent.engine.random import generator
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.objectives.ranking import centring_penalty, ranking_loss, score_loss

ObjectiveSums = tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]
"""What an objective gives (`engine.learner.Objective`): each term's sum; each metric's sum and count."""
TARGET, STEP_TARGET, LAST_STEP_TARGET = "score", "step_label", "last_step_label"
BOOTSTRAP = "bootstrap_{}"


class RankingObjective:
    """The weighted sum of registered losses of rankings (none named: bradley_terry), averaged over the step's groups;
    a group weighs as one, times its weight.

    An ensemble's loss is the mean over its members, each with its own bootstrap weights where there are some; accuracy
    and margin are of the members' mean score.
    """

    want = frozenset({"scores"})

    def __init__(self, *losses: LossEntry, centring: float = 0.0) -> None:
        self.losses, self.centring = losses or (LossEntry(name="bradley_terry"),), centring

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        names = [entry.name for entry in self.losses] + (["centring"] if self.centring else [])
        return dict.fromkeys(names, float(pair_weights(batch).sum()))

    def __call__(self, outputs: Outputs, batch: GroupBatch) -> ObjectiveSums:
        assert outputs.scores is not None
        scores = outputs.scores.float().view(batch.num_completions, -1)  # (S, M)
        members, ranks = scores.shape[1], batch.completion["rank"]
        # M copies of the batch, one after another: member m's groups are m G … (m + 1) G - 1.
        group = torch.cat([batch.group + m * batch.num_groups for m in range(members)])
        weights = pair_weights(batch) * member_weights(batch, members) / members  # (M, G)
        sums: dict[str, Tensor] = {}
        for entry in self.losses:
            hyperparameters: dict[str, Any] = dict(entry.hyperparameters)
            values, _ = ranking_loss(
                entry.name,
                scores=scores.T.reshape(-1),
                ranks=ranks.repeat(members),
                group=group,
                **{name: numbers.repeat(members) for name, numbers in _optional(batch, entry.name).items()},
                **hyperparameters,
            )
            sums[entry.name] = entry.weight * (values.view(members, -1) * weights).sum()
        if self.centring:
            penalty = centring_penalty(scores.T.reshape(-1), group).view(members, -1)
            sums["centring"] = self.centring * (penalty * weights).sum()
        mean = scores.detach().mean(1)
        _, found = ranking_loss("all_pairs", scores=mean, ranks=ranks, group=batch.group)  # all have the same metrics
        ordered = found["ordered"].sum()
        metrics = {name: (found[name].sum(), ordered) for name in ("accuracy", "margin")}
        return sums, metrics | _reward_metrics(scores)


class ScoreObjective:
    """A registered loss of single labels: of completions, read at their last token, or of their steps, at step ends."""

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
        """Labels and the group of each; NaN where a token ends no step."""
        if not self.process:
            return batch.completion[TARGET], batch.group
        # `values` are read before each token, so a step's label stands at the token that follows the step.
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
    """(G,) the rows' weights; 1 where the data gives none."""
    if "weight" in batch.value:
        return batch.value["weight"]
    return torch.ones(batch.num_groups, device=batch.input_ids.device)


def member_weights(batch: GroupBatch, members: int) -> Tensor:
    """(M, G) how often each member's bootstrap sample holds each group; 1 where there is none."""
    names = [BOOTSTRAP.format(m) for m in range(members)]
    if names[0] not in batch.value:
        return torch.ones(members, batch.num_groups, device=batch.input_ids.device)
    return torch.stack([batch.value[name] for name in names])


def with_bootstrap(groups: Sequence[TokenGroup], *, members: int, seed: int) -> list[TokenGroup]:
    """Groups with a weight for each member, Poisson(1), the online bootstrap (Oza and Russell, AISTATS 2001)."""
    drawn = torch.poisson(torch.ones(len(groups), members), generator=generator(seed, "bootstrap")).tolist()
    return [
        replace(group, value={**group.value, **{BOOTSTRAP.format(m): weight for m, weight in enumerate(weights)}})
        for group, weights in zip(groups, drawn, strict=True)
    ]


def with_step_targets(group: TokenGroup) -> TokenGroup:
    """Labels of the steps, moved to where `values` and `last_values` read the state after each step's last token."""
    labels = group.token[STEP_TARGET]
    moved = [np.concatenate([[np.nan], per_token[:-1]]) for per_token in labels]
    last = np.array([per_token[-1] for per_token in labels])
    return replace(group, token={STEP_TARGET: moved}, completion={**group.completion, LAST_STEP_TARGET: last})


def _optional(batch: GroupBatch, loss: str) -> dict[str, Tensor]:
    accepted = RANKING_LOSSES[loss].accepts & {"margin", "chosen_probability"}
    return {name: batch.value[name] for name in accepted if name in batch.value}


def _reward_metrics(scores: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of (S, M) scores."""
    scores = scores.detach()
    count = scores.new_tensor(float(len(scores)))
    metrics = {"mean_reward": (scores.mean(1).sum(), count)}
    if scores.shape[1] > 1:
        metrics["ensemble_std"] = (scores.std(1, correction=0).sum(), count)
    return metrics
