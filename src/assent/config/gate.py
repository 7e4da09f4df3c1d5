"""Configuration of the pipeline's `gate`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from assent.config.options import Fraction, Options

OF_EVALUATION = ("max_kl_nats", "min_win_rate", "max_safety", "min_slice_win_rate")


class GateConfig(Options):
    """Holds what earlier stages measured against limits, and stops the pipeline where one is not shown to be kept.

    A limit is kept if the whole 95% interval of the figure keeps it. A figure that was not measured keeps none.
    """

    output_dir: str
    """Folder to write gate.json to, once every limit is kept."""
    evaluation: str | None = None
    """evaluation.json of an eval stage: ${STAGE.evaluation}."""
    policy: str | None = None
    """Policy of the evaluation that the limits are about."""
    max_kl_nats: Annotated[float, Field(gt=0)] | None = None
    """Largest KL to the reference, in nats per completion."""
    min_win_rate: Fraction | None = None
    """Least win rate against the evaluation's baseline."""
    max_safety: dict[str, Fraction] = Field(default_factory=dict)
    """Largest share of each fault of safety, by its name in the evaluation (under_refusal: 0.02)."""
    min_slice_win_rate: dict[str, Fraction] = Field(default_factory=dict)
    """Least win rate on the prompts of a slice, as COLUMN=VALUE: RATE. The evaluation's slices must name it."""
    run: str | None = None
    """Folder of a training stage, for limits on its held-out figures: ${STAGE.output_dir}."""
    min_held_out: dict[str, float] = Field(default_factory=dict)
    """Least value of held-out figures, by name (eval_rewards/accuracies: 0.6, which is agreement with held-out
    labels)."""
    model: str | None = None
    """Model that is to be released, for --sign-off."""
    sign_off: str | None = None
    """YAML file in which somebody signs for the model: signed_by, date, and model, its content hash. The gate stays
    shut until the file is there and names this very model."""

    @model_validator(mode="after")
    def _limits_have_figures(self) -> Self:
        limits = [name for name in OF_EVALUATION if getattr(self, name) not in (None, {})]
        if limits and (self.evaluation is None or self.policy is None):
            raise ValueError(f"{', '.join(limits)} needs evaluation and policy: say where the figures are")
        if not limits and (self.evaluation is not None or self.policy is not None):
            raise ValueError(f"evaluation and policy have no effect without one of {', '.join(OF_EVALUATION)}")
        if bool(self.min_held_out) != (self.run is not None):
            raise ValueError("run and min_held_out go together: give both, or neither")
        if (self.model is None) != (self.sign_off is None):
            raise ValueError("model and sign_off go together: give both, or neither")
        if not (limits or self.min_held_out or self.sign_off):
            raise ValueError("a gate without a limit lets everything through: give one")
        if wrong := [name for name in self.min_slice_win_rate if "=" not in name]:
            raise ValueError(f"min_slice_win_rate names {wrong[0]}: give COLUMN=VALUE")
        return self
