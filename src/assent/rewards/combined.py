"""Several rewards as one: a weighted sum, or an ensemble of rewards that measure the same thing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from assent.config.ensembles import Combination
from assent.rewards.base import Reward, Scores, checked_reward
from assent.rewards.reward_model import combine, disagreement
from assent.types import PromptGroup, Rollout, Text


class WeightedReward:
    """Σ weight · score over the parts that do not abstain; it abstains where all of them do. Each part's scores and
    statistics are kept under its name.

    parts   name -> (weight, reward)
    """

    def __init__(self, parts: Mapping[str, tuple[float, Reward]], *, name: str) -> None:
        self.parts, self.name = dict(parts), name

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> Scores:
        """The result's `parts` are unweighted. Its `steps`, if a part has steps, are weighted."""
        of = scores_of(self.parts, prompts, completions, groups=groups, rollouts=rollouts)
        weights = {name: weight for name, (weight, _) in self.parts.items()}
        known = [
            [weights[name] * scores[i] for name, scores in of.items() if not scores.abstained[i]]
            for i in range(len(completions))
        ]
        totals = [math.fsum(some) if some else None for some in known]
        weighted = [_times(weights[name], scores.steps) for name, scores in of.items() if scores.steps is not None]
        # a part that abstained has no steps for the completion
        of_each = [[numbers for numbers in of_one if numbers] for of_one in zip(*weighted, strict=True)]
        steps = [list(map(math.fsum, zip(*some, strict=True))) for some in of_each]
        return Scores(totals, parts=named_parts(of), steps=steps if weighted else None, statistics=named_figures(of))

    @property
    def members(self) -> list[Reward]:
        return [reward for _, reward in self.parts.values()]


class EnsembleReward(WeightedReward):
    """Combines the weighted scores of the members that do not abstain: mean, min, or mean - k deviations. Their
    disagreement is a statistic, over the completions that all of them scored."""

    def __init__(self, parts: Mapping[str, tuple[float, Reward]], *, combination: Combination, name: str) -> None:
        super().__init__(parts, name=name)
        self.combination = combination

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> Scores:
        of = scores_of(self.parts, prompts, completions, groups=groups, rollouts=rollouts)
        weighted = [[weight * x for x in of[name]] for name, (weight, _) in self.parts.items()]
        members = torch.tensor(weighted, dtype=torch.float64).T.reshape(len(completions), len(self.parts))
        known = ~members.isnan()
        figures = named_figures(of) | disagreement(members[known.all(1)])
        scores: list[float | None] = list(combine(members, self.combination).tolist())
        for i in (~known.all(1)).nonzero()[:, 0].tolist():
            some = members[i : i + 1, known[i]]
            scores[i] = float(combine(some, self.combination)) if some.numel() else None
        return Scores(scores, parts=named_parts(of), statistics=figures)


def scores_of(
    parts: Mapping[str, tuple[float, Reward]],
    prompts: Sequence[Text],
    completions: Sequence[str],
    *,
    groups: Sequence[PromptGroup] | None,
    rollouts: Sequence[Rollout] | None,
) -> dict[str, Scores]:
    """Each part's scores of all completions, by name."""
    return {
        name: checked_reward(reward, prompts, completions, groups=groups, rollouts=rollouts, may_abstain=True)
        for name, (_, reward) in parts.items()
    }


def _times(weight: float, steps: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[weight * number for number in numbers] for numbers in steps]


def named_parts(of: Mapping[str, Scores]) -> dict[str, Sequence[float | None]]:
    """Each part's scores, and the scores of its own parts, by name."""
    return {
        name: numbers for part, scores in of.items() for name, numbers in {part: scores.given(), **scores.parts}.items()
    }


def named_figures(of: Mapping[str, Scores]) -> dict[str, float]:
    """The parts' statistics by name: `ensemble_std` of part A is `rewards/A/ensemble_std`."""
    return {
        name if name.startswith("rewards/") else f"rewards/{part}/{name}": value
        for part, scores in of.items()
        for name, value in scores.statistics.items()
    }
