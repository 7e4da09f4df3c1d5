"""One configuration class for each command that trains on given data. `online.py` has those that sample."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import DataOptions
from assent.config.held_out import EvalSampleOptions, ValidationOptions
from assent.config.loss_options import LOGGED, LossOptions, ReferenceOptions, RewardLossOptions
from assent.config.losses import SCORE_LOSSES, thumbs_loss_declaration
from assent.config.options import EpochOptions, Positive, StageOptions, TextOptions
from assent.config.router import RouterOptions
from assent.config.storage import StorageOptions
from assent.errors import ConfigError


class SftConfig(StageOptions, DataOptions, StorageOptions, TextOptions, EpochOptions, EvalSampleOptions, RouterOptions):
    """Instruction tuning: maximum likelihood of the completions, given their prompts."""

    model: str
    """Model to start from: a folder or a hub name."""
    data: str
    """Demonstrations: a file, a folder or a hub name. If it holds comparisons, their chosen completions are used."""
    train_on: Literal["all", "last", "each"] = "all"
    """Which assistant turns of a `messages` row to train on. all: every one, in one row. last: the last one. each:
    every one, in a row of its own that ends with it, as the template renders it at that point; for templates that take
    the reasoning out of earlier turns (Qwen3)."""


class RewardConfig(
    StageOptions, DataOptions, StorageOptions, TextOptions, EpochOptions, ValidationOptions, RewardLossOptions
):
    """A reward model from comparisons, rankings, ratings, thumbs, or labels of steps."""

    MEASURED: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "margin", "label_accuracy", "label_error")

    model: str
    """Model to start from: a causal model, which gets a new head, or a sequence classifier with one label per head,
    which keeps its own."""
    data: str
    """Comparisons, or what --loss-type takes: a file, a folder or a hub name."""
    supervision: Literal["outcome", "process"] = "outcome"
    """outcome: one score per completion, read at its end. process: one score per step (columns prompt, completions,
    labels)."""
    center_rewards_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Adds this times (sum of a comparison's scores)^2 to the loss, which keeps scores around zero
    (arXiv:2312.09244)."""
    num_heads: Positive = 1
    """Number of heads of an ensemble on one trunk. Each head has its own initial weights and one label in the saved
    model."""
    num_adapters: Positive = 1
    """Number of members of an ensemble on one frozen trunk. Each has an adapter (--lora-r) and a head of its own, its
    own initial weights and updates, and its own folder in the saved model."""
    bootstrap: bool = False
    """Train each member of the ensemble on its own resample of the rows (Poisson weights)."""
    normalize_rewards: bool = False
    """Normalise scores to mean 0 and standard deviation 1 on the training completions. The gain goes into the head's
    weights, the bias into the model's config."""
    normalize_data: str | None = None
    """Normalise on these prompts and completions instead: a file, a folder or a hub name."""

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Self:
        name = self.entries[0].name
        figures = {"bce": ("label_accuracy",), "mse": ("label_error",)}.get(name, ("accuracy", "margin"))
        best = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if best not in ("loss", *figures):
            raise ValueError(
                f"metric_for_best_model: loss {name} has no {best}. Choose {' or '.join(('loss', *figures))}"
            )
        if self.supervision == "process" and self.score_loss is None:
            raise ValueError(
                f"supervision process needs a loss of single labels, not {name}: choose {' or '.join(SCORE_LOSSES)}"
            )
        if self.center_rewards_coefficient and self.score_loss is not None:
            raise ValueError(
                f"center_rewards_coefficient has no effect with loss {name}, whose labels fix the level: leave it out"
            )
        if self.num_adapters > 1 and not self.lora_r:
            raise ValueError("num_adapters needs lora_r: give the rank of the members' adapters")
        if self.num_adapters > 1 and self.num_heads > 1:
            raise ValueError("num_heads and num_adapters each make an ensemble: give one of them")
        if self.bootstrap and self.num_members == 1:
            raise ValueError(
                "bootstrap has no effect without num_heads or num_adapters above 1: give one, or leave it out"
            )
        if self.normalize_data is not None and not self.normalize_rewards:
            raise ValueError("normalize_data has no effect without normalize_rewards: give both, or leave it out")
        if self.normalize_rewards and self.supervision == "process":
            raise ValueError("normalize_rewards has no effect on scores of steps (supervision process): leave it out")
        return self

    @property
    def num_members(self) -> int:
        """Members of the ensemble; 1 without one."""
        return self.num_heads * self.num_adapters


class PreferenceConfig(
    StageOptions,
    DataOptions,
    StorageOptions,
    TextOptions,
    EpochOptions,
    EvalSampleOptions,
    LossOptions,
    ReferenceOptions,
    RouterOptions,
):
    """Direct preference optimisation and its family, from comparisons or rankings."""

    MEASURED: ClassVar[tuple[str, ...]] = ("loss", "rewards/accuracies", "rewards/margins")

    model: str
    """Policy to train: a folder or a hub name."""
    data: str
    """Comparisons, or rankings for a ranking loss: a file, a folder or a hub name."""

    @model_validator(mode="after")
    def _reference_is_used(self) -> Self:
        if not any(entry.declaration.needs_reference for entry in self.entries):
            names = ", ".join(entry.name for entry in self.entries)
            self.refuse_reference_options(f"loss {names}")
        return self


class KtoConfig(
    StageOptions, DataOptions, TextOptions, EpochOptions, EvalSampleOptions, ReferenceOptions, RouterOptions
):
    """Preference optimisation from thumbs: single completions, each desirable or not (KTO, arXiv:2402.01306)."""

    model: str
    """Policy to train: a folder or a hub name."""
    data: str
    """Completions with a thumb up or down (columns prompt, completion, label): a file, a folder or a hub name."""
    split_comparisons: bool = False
    """Accept comparisons too. The chosen completion counts as a thumb up, the rejected one as a thumb down."""
    loss_type: str = "kto"
    """Loss to train with: kto, or apo_zero_unpaired (arXiv:2408.06266), which has no KL baseline."""
    beta: float | None = None
    """Strength of the pull to the reference. Default: the loss's own."""
    desirable_weight: float | None = None
    """Weight of completions with a thumb up. Default: 1."""
    undesirable_weight: float | None = None
    """Weight of completions with a thumb down. Default: 1."""

    @model_validator(mode="after")
    def _loss_is_declared(self) -> Self:
        declared = thumbs_loss_declaration(self.loss_type)
        given = {name: getattr(self, name) for name in KTO_HYPERPARAMETERS}
        values = declared.resolve({name: value for name, value in given.items() if value is not None})
        if values["desirable_weight"] == 0 == values["undesirable_weight"]:
            raise ConfigError(
                "desirable_weight and undesirable_weight are both 0, so nothing would be learned",
                fix="raise one of them",
            )
        self.__dict__.update(values)
        if self.reference == LOGGED and "kl_baseline" in declared.accepts:
            raise ConfigError(
                f"loss {self.loss_type!r} reads completions under other rows' prompts, for which nothing is logged",
                fix="leave --reference out, give a model, or use --loss-type apo_zero_unpaired",
            )
        return self

    @property
    def hyperparameters(self) -> dict[str, float]:
        """All hyperparameters of the loss."""
        return {name: getattr(self, name) for name in KTO_HYPERPARAMETERS}


KTO_HYPERPARAMETERS = ("beta", "desirable_weight", "undesirable_weight")
