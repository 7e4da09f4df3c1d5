"""Where rewards are asked, for a command that several processes run together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from assent.config.options import StageDefaults
from assent.config.processes import RewardProcesses
from assent.config.rewards import EndpointSource, FunctionSource

if TYPE_CHECKING:
    from assent.config.rewards import Rewards


class RewardPlaceOptions(StageDefaults):
    """Which of several processes ask the rewards."""

    if TYPE_CHECKING:

        @property
        def reward(self) -> Rewards: ...

    reward_processes: RewardProcesses = "main"
    """Where functions and addresses are asked, if several processes train together. main: the main process asks for the
    whole round. each: every process asks for its share of the prompts; for a function that judges each prompt's
    completions by themselves. Reward models are always read by all processes."""

    @model_validator(mode="after")
    def _somebody_is_asked(self) -> Self:
        leaves = [leaf for source in self.reward for leaf in source.leaves()]
        if self.reward_processes == "each" and not any(isinstance(x, FunctionSource | EndpointSource) for x in leaves):
            raise ValueError("reward_processes has no effect without a function or an address in reward: leave it out")
        return self
