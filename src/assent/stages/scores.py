"""Scores of a round. In several processes the main one asks the reward, and tells the others.

A judge that is not a function of its input would give each process other advantages; it is asked once, and paid once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from assent.engine.runtime import Runtime
from assent.errors import RunError
from assent.rewards.base import Reward, Scores
from assent.rewards.loading import judges_alone
from assent.types import PromptGroup, Rollout, Text


class MainReward:
    """A reward that is opened and called in the main process alone. All processes must call it, with the same."""

    def __init__(self, load: Callable[[], Reward], runtime: Runtime) -> None:
        self.runtime = runtime
        self.reward = load() if runtime.is_main else None
        facts = None if self.reward is None else {"name": self.reward.name, "alone": judges_alone(self.reward)}
        facts = runtime.from_main(facts)
        self.name: str = facts["name"]
        self.judges_alone: bool = facts["alone"]

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> Scores:
        """As the reward's own; where that fails, every process fails."""
        told: dict[str, Any] = {}
        failure: Exception | None = None
        if self.reward is not None:
            try:
                scores = self.reward.score(prompts, completions, groups=groups, rollouts=rollouts)
                told = {"scores": list(scores)}
                if isinstance(scores, Scores):
                    told |= {"parts": scores.parts, "steps": scores.steps, "statistics": scores.statistics}
            except Exception as error:  # whatever it is, the others must not wait for scores
                failure, told = error, {"failure": str(error)}
        told = self.runtime.from_main(told)
        if failure is not None:
            raise failure
        if "failure" in told:
            raise RunError("the reward failed in the main process", got=told["failure"])
        return Scores(told.pop("scores"), **told)
