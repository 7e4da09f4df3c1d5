"""Options of held-out data: when to measure on it, and what the figures decide."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from assent.config.options import NonNegative, Positive, StageDefaults


class ValidationOptions(StageDefaults):
    """Which data is held out, when it is measured on, and what the figures decide."""

    MEASURED: ClassVar[tuple[str, ...]] = ("loss",)
    """Held-out figures that can choose a checkpoint. Every run of the command measures them, and assent.metrics says
    which direction is better."""

    eval_data: str | None = None
    """Held-out rows of the same kind as --data. A prompt that is in both is an error."""
    eval_split: str | None = None
    """Split of --eval-data to read; without --eval-data, the split of --data that is held out."""
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Hold out this share of --data instead of giving --eval-data. Whole conversations are held out, chosen by
    --seed."""
    eval_steps: NonNegative = 0
    """Measure on held-out data before the first step, every this many steps, and after the last. 0: only after the
    last."""
    metric_for_best_model: str | None = None
    """Held-out figure that chooses the best model (loss, for example). Each new best is kept as a checkpoint, and the
    best becomes the result. The start counts too: if training improves nothing, the result is the start."""
    early_stopping_patience: Positive | None = None
    """Stop after this many measurements in a row without an improvement in --metric-for-best-model."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """An improvement must be larger than this to count for --early-stopping-patience."""

    @property
    def has_held_out_data(self) -> bool:
        return any(one is not None for one in (self.eval_data, self.eval_split, self.eval_fraction))

    @model_validator(mode="after")
    def _held_out_options_have_an_effect(self) -> Self:
        if self.eval_data is not None and self.eval_fraction is not None:
            raise ValueError("eval_data and eval_fraction both say what is held out: give one of them")
        if self.eval_split is not None and self.eval_fraction is not None:
            raise ValueError("eval_split and eval_fraction both say what is held out: give one of them")
        has_data = self.has_held_out_data
        defaults = {name: field.default for name, field in ValidationOptions.model_fields.items()}
        used = [name for name, default in defaults.items() if getattr(self, name, default) != default]
        if used and not has_data:
            raise ValueError(
                f"{', '.join(used)} has no effect without held-out data: give eval_data, eval_split or eval_fraction"
            )
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            raise ValueError(
                "early_stopping_threshold has no effect without early_stopping_patience: give both, or leave it out"
            )
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            raise ValueError("early_stopping_patience needs metric_for_best_model: give the metric that must improve")
        if self.metric_for_best_model is not None:
            if self.metric_for_best_model.removeprefix("eval_") not in self.MEASURED:
                raise ValueError(
                    f"metric_for_best_model {self.metric_for_best_model!r} is not a held-out figure of this command: "
                    f"choose {' or '.join(self.MEASURED)}"
                )
            if not self.eval_steps:
                raise ValueError("metric_for_best_model has only one checkpoint to choose from: give eval_steps")
        return self


class EvalSampleOptions(ValidationOptions):
    """Held-out data for a policy, which can also answer the prompts."""

    eval_prompts: NonNegative = 0
    """Number of held-out prompts to answer at each measurement. The answers go to samples.jsonl, and give lengths and
    the KL to the reference. 0: none."""
    eval_max_new_tokens: Positive = 64
    """Longest answer to a held-out prompt, in tokens."""

    @model_validator(mode="after")
    def _sampling_has_an_effect(self) -> Self:
        if self.eval_prompts and not self.has_held_out_data:
            raise ValueError(
                "eval_prompts has no effect without held-out data: give eval_data, eval_split or eval_fraction"
            )
        if "eval_max_new_tokens" in self.model_fields_set and not self.eval_prompts:
            raise ValueError("eval_max_new_tokens has no effect without eval_prompts: give both, or leave it out")
        if self.eval_prompts and self.eval_max_new_tokens >= getattr(self, "max_length", self.eval_max_new_tokens + 1):
            raise ValueError(
                "eval_max_new_tokens leaves no room for a prompt within max_length: lower it, or raise max_length"
            )
        return self
