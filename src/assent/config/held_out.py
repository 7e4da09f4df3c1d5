"""Options of held-out data: what is measured on it during training, and what follows from it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from assent.config.options import NonNegative, Positive, StageDefaults


class ValidationOptions(StageDefaults):
    """Held-out data: what is measured on it, when, and what follows from it."""

    MEASURED: ClassVar[tuple[str, ...]] = ("loss",)
    """Held-out figures that a checkpoint can be chosen by: of every run of the command, with a direction that is
    better in assent.metrics."""

    eval_data: str | None = None
    """Held-out rows of the same kind as --data. A prompt that both have is an error."""
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """In the place of --eval-data: hold out this share of --data, whole conversations, chosen by --seed."""
    eval_steps: NonNegative = 0
    """Measure before the first step, after every so many, and after the last; 0: only after the last."""
    metric_for_best_model: str | None = None
    """Write a checkpoint at every new best of this held-out figure (loss, say) and keep it; its weights become the
    result. The start is among them: where training makes nothing better, it is the result."""
    early_stopping_patience: Positive | None = None
    """Stop when so many measurements in a row have not improved the metric for the best model."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """What counts as an improvement for --early-stopping-patience must be larger than this."""

    @model_validator(mode="after")
    def _held_out_options_have_an_effect(self) -> Self:
        if self.eval_data is not None and self.eval_fraction is not None:
            raise ValueError("eval_data and eval_fraction both say what is held out: give one of them")
        has_data = self.eval_data is not None or self.eval_fraction is not None
        defaults = {name: field.default for name, field in ValidationOptions.model_fields.items()}
        used = [name for name, default in defaults.items() if getattr(self, name, default) != default]
        if used and not has_data:
            raise ValueError(f"{', '.join(used)} has no effect without held-out data: give eval_data or eval_fraction")
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            raise ValueError("early_stopping_threshold has no effect without early_stopping_patience")
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            raise ValueError("early_stopping_patience needs metric_for_best_model: the metric that must improve")
        if self.metric_for_best_model is not None:
            if self.metric_for_best_model.removeprefix("eval_") not in self.MEASURED:
                raise ValueError(
                    f"metric_for_best_model {self.metric_for_best_model!r} is no held-out figure that this command can "
                    f"choose by: give {' or '.join(self.MEASURED)}"
                )
            if not self.eval_steps:
                raise ValueError("metric_for_best_model would have one checkpoint to choose from: give eval_steps")
        return self


class EvalSampleOptions(ValidationOptions):
    """Held-out data of a policy, which can also be sampled from."""

    eval_prompts: NonNegative = 0
    """Held-out prompts to answer at each measurement: KL to the reference, lengths, samples.jsonl; 0: none."""
    eval_max_new_tokens: Positive = 64
    """Longest answer to a held-out prompt, in tokens."""

    @model_validator(mode="after")
    def _sampling_has_an_effect(self) -> Self:
        if self.eval_prompts and self.eval_data is None and self.eval_fraction is None:
            raise ValueError("eval_prompts has no effect without held-out data: give eval_data or eval_fraction")
        if "eval_max_new_tokens" in self.model_fields_set and not self.eval_prompts:
            raise ValueError("eval_max_new_tokens has no effect without eval_prompts")
        if self.eval_prompts and self.eval_max_new_tokens >= getattr(self, "max_length", self.eval_max_new_tokens + 1):
            raise ValueError("eval_max_new_tokens leaves no room for a prompt within max_length")
        return self
