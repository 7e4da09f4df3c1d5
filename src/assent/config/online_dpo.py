"""Configuration of `online-dpo`: what it samples, what ranks the samples, which losses learn from them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from assent.config.data import DataOptions
from assent.config.ensembles import EnsembleOptions
from assent.config.held_out import EvalSampleOptions
from assent.config.loss_options import LOGGED, LossOptions
from assent.config.options import Positive, SamplerOptions, StageOptions
from assent.config.reward_places import RewardPlaceOptions
from assent.config.rewards import OutcomeRewards
from assent.config.router import RouterOptions
from assent.errors import ConfigError


class OnlineDpoConfig(
    StageOptions,
    DataOptions,
    LossOptions,
    EnsembleOptions,
    SamplerOptions,
    EvalSampleOptions,
    RouterOptions,
    RewardPlaceOptions,
):
    """Online DPO (arXiv:2402.04792): the policy samples completions during training, and learns from their comparisons.

    Held-out data are prompts. The reward scores their answers.
    """

    MEASURED: ClassVar[tuple[str, ...]] = ("objective/scores",)

    model: str
    """Policy to train: a folder or a hub name."""
    data: str
    """Prompts: a file, a folder or a hub name. Completions in it are ignored."""
    reward: OutcomeRewards
    """What ranks completions: a reward-model folder, module:function, a rule, an address, implicit:POLICY,REFERENCE; or
    several of them, with weights (docs/rewards.md)."""
    reference: str | None = None
    """Reference policy, fixed for the run: a folder or a hub name. Default: the policy as it starts."""
    total_steps: Positive = 50
    """Rounds of sampling, ranking and training."""
    batch_size: Positive = 16
    """Prompts per round, over all processes."""
    num_completions: Annotated[int, Field(ge=2)] = 2
    """Completions sampled for each prompt. A pair loss compares the best with the worst; a ranking loss uses all."""
    max_new_tokens: Positive = 64
    """Longest completion, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature. Log-probabilities are those of the tempered policy."""
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Subtracted from the score of a completion that did not end, before completions are ranked."""
    updates_per_round: Positive = 1
    """Updates in each round. Each uses all of the round's comparisons."""
    shuffle: bool = True
    """Read the prompts in a new order in each pass. With --no-shuffle they keep the file's order."""

    def num_updates(self, steps: int, *, learner: str = "model") -> int:
        return steps * self.updates_per_round

    @property
    def compares_all(self) -> bool:
        """Whether all completions of a prompt are ranked. Otherwise the best and the worst make a pair."""
        return all(entry.is_ranking for entry in self.entries)

    @property
    def uses_ties(self) -> bool:
        """Whether all losses have a likelihood for ties."""
        return all(entry.is_ranking and "tied" in entry.declaration.accepts for entry in self.entries)

    @model_validator(mode="after")
    def _held_out_prompts_are_answered(self) -> Self:
        if self.has_held_out_data and not self.eval_prompts:
            raise ConfigError(
                "held-out prompts have no effect unless they are answered", fix="give eval_prompts: how many to answer"
            )
        return self

    @model_validator(mode="after")
    def _reference_is_used(self) -> Self:
        if self.reference == LOGGED:
            raise ConfigError(
                "completions that are yet to be sampled have no logged log-probabilities",
                got=f"reference {LOGGED}",
                fix="leave reference out, or give a model",
            )
        if self.reference is not None and not any(entry.declaration.needs_reference for entry in self.entries):
            names = ", ".join(entry.name for entry in self.entries)
            raise ConfigError(
                f"reference has no effect: loss {names} takes no reference",
                got=self.reference,
                fix="leave reference out",
            )
        return self
