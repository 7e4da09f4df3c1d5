"""One configuration class for each training command."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from assent.config.losses import preference_loss_declaration
from assent.config.options import (
    EpochOptions,
    EvalSampleOptions,
    NonNegative,
    OptimiserOptions,
    Positive,
    PromptOptions,
    RunOptions,
    TextOptions,
    TrainingOptions,
    ValidationOptions,
)


class SftConfig(RunOptions, TrainingOptions, TextOptions, OptimiserOptions, EpochOptions, EvalSampleOptions):
    """Instruction tuning: maximum likelihood of the completions, given their prompts."""

    model: str
    """Policy to start from: a folder or a hub name."""
    data: str
    """Demonstrations: a file, a folder or a hub name. Of comparisons, the chosen completion is used."""
    train_on: Literal["all", "last"] = "all"
    """Assistant turns of a `messages` row that the loss is on."""


class RewardConfig(RunOptions, TrainingOptions, TextOptions, OptimiserOptions, EpochOptions, ValidationOptions):
    """A reward model from comparisons: Bradley–Terry, with margins where the data has them."""

    MEASURED: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "margin")

    model: str
    """Start: a causal model (gets a fresh head) or a sequence classifier with one label (keeps its head)."""
    data: str
    """Comparisons: a file, a folder or a hub name."""


class PreferenceConfig(RunOptions, TrainingOptions, TextOptions, OptimiserOptions, EpochOptions, EvalSampleOptions):
    """Direct preference optimisation from comparisons."""

    MEASURED: ClassVar[tuple[str, ...]] = ("loss", "rewards/accuracies", "rewards/margins")

    model: str
    """Policy to train: a folder or a hub name."""
    data: str
    """Comparisons: a file, a folder or a hub name."""
    reference: str | None = None
    """Reference policy; none given: the policy as it starts."""
    loss_type: str = "sigmoid"
    """The loss; sigmoid is DPO (arXiv:2305.18290)."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference."""
    reference_cache: str | None = None
    """Folder of cached reference log-probabilities, keyed by content; none given: inside the user's cache folder."""

    @model_validator(mode="after")
    def _loss_is_declared(self) -> Self:
        preference_loss_declaration(self.loss_type).resolve({"beta": self.beta})
        return self


class PpoConfig(RunOptions, TrainingOptions, PromptOptions, OptimiserOptions):
    """PPO (arXiv:1707.06347) against a reward, with a KL penalty to the reference (arXiv:1909.08593)."""

    model: str
    """Policy to train: a folder or a hub name."""
    data: str
    """Prompts: a file, a folder or a hub name. Completions in it are not used."""
    reward: str
    """A reward-model folder, or module:function of prompts and completions."""
    reference: str | None = None
    """Reference policy; none given: the policy as it starts."""
    critic: str | None = None
    """Start of the critic; none given: the reward model where it is one of ours, else the policy with a fresh head."""
    total_steps: Positive = 50
    """Rounds of sampling and training."""
    batch_size: Positive = 64
    """Prompts per round, over all processes."""
    num_completions: Positive = 1
    """Completions sampled per prompt."""
    max_new_tokens: Positive = 64
    """Longest completion, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of sampling; log-probabilities are of the tempered policy."""
    num_ppo_epochs: Positive = 4
    """Passes over each round's rollouts."""
    num_mini_batches: Positive = 1
    """Updates per pass, each on a part of the round's prompts."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    """Factor of the per-token KL penalty (k1) in the reward; the start value where it adapts."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """Nats per completion; given: kl_coef adapts towards it (arXiv:1909.08593, eq. 3)."""
    kl_horizon: Annotated[float, Field(gt=0)] | None = None
    """Completions over which the adaptive coefficient moves; needs --kl-target. Default 1000."""
    cliprange: Annotated[float, Field(gt=0)] = 0.2
    """The ratio's clip."""
    cliprange_value: Annotated[float, Field(gt=0)] = 0.2
    """The value's clip."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount per token."""
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    """GAE's lambda (arXiv:1506.02438)."""
    whiten_advantages: bool = True
    """Advantages to mean 0 and variance 1 over the whole round."""
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Taken off the score of a completion that did not end."""
    critic_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The critic's peak rate; default: the policy's."""
    critic_warmup_steps: NonNegative = 0
    """First rounds in which only the critic learns."""
    shuffle: bool = True
    """A new order of prompts each pass; without it, the file's order."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.kl_horizon is not None and self.kl_target is None:
            raise ValueError("kl_horizon has no effect without kl_target: give both, or neither for a fixed kl_coef")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_coef 0 cannot adapt, for it is multiplied: give one above 0, or leave kl_target out")
        completions, horizon = self.batch_size * self.num_completions, self.kl_horizon or 1000.0
        if self.kl_target is not None and completions >= 5 * horizon:
            raise ValueError(
                f"kl_horizon {horizon:g} is too short for rounds of {completions} completions: "
                f"give one above {completions / 5:g}"
            )
        if self.num_mini_batches > self.batch_size:
            raise ValueError(
                f"num_mini_batches ({self.num_mini_batches}) must not be above batch_size ({self.batch_size}): "
                "each update needs a prompt"
            )
        if self.critic_warmup_steps >= self.total_steps:
            raise ValueError(
                f"critic_warmup_steps ({self.critic_warmup_steps}) must be below total_steps ({self.total_steps})"
            )
        return self
