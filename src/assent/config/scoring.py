"""Configuration of `score`: rewards, or log-probabilities, of completions that exist already. Torch-free."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from assent.config.data import DataOptions
from assent.config.ensembles import EnsembleOptions
from assent.config.options import DeviceOptions, PromptOptions
from assent.config.rewards import Rewards
from assent.config.sharding import ShardingOptions


class ScoreConfig(DeviceOptions, DataOptions, PromptOptions, EnsembleOptions, ShardingOptions):
    """Rewards for given completions, or their log-probabilities under a model."""

    data: str
    """Completions: a file, a folder or a hub name. Judgements in it are not read."""
    output_dir: str
    """Folder to write scores.jsonl, or logprobs.jsonl, to."""
    reward: Rewards | None = None
    """What scores completions: a reward-model folder, module:function, a rule, an address, implicit:POLICY,REFERENCE;
    or several of them, with weights (docs/rewards.md)."""
    logprobs: str | None = None
    """Model whose log-probabilities of the completions are written, in the place of rewards, as the columns that dpo
    and kto read with --reference logged: a folder or a hub name."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if (self.reward is None) == (self.logprobs is None):
            raise ValueError("give either reward, to score completions, or logprobs, a model that reads them")
        idle = {"reward_ensemble"} if self.reward is None else set(PromptOptions.model_fields)
        if idle := idle & self.model_fields_set:
            other = "logprobs" if self.reward is None else "reward"
            raise ValueError(f"{', '.join(sorted(idle))} has no effect with {other}: leave it out")
        return self
