"""Options shared by commands. Torch-free; frozen; an unknown key is an error; an attribute's docstring is its help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")]


class Options(BaseModel):
    """Base of all option classes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic reads `batch_size: true` as 1; whoever wrote it meant another option."""
        assert info.field_name is not None
        kinds = set(_kinds(cls.model_fields[info.field_name].annotation))
        if kinds & {int, float} and not kinds & {bool, Any} and any(isinstance(leaf, bool) for leaf in _leaves(value)):
            raise ValueError("a number")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """int and None of `Annotated[int, ...] | None`; str and float of `dict[str, float]`."""
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts[:1] if get_origin(annotation) is Annotated else parts:
        yield from _kinds(part)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        yield value
        return
    for part in value:
        yield from _leaves(part)


class RunOptions(Options):
    """Where a run is written and how it is repeated."""

    output_dir: str
    """Run folder to write. An interrupted run of the same configuration is resumed."""
    seed: NonNegative = 0
    """Batch order and all randomness are functions of it."""
    resume: bool = True
    """Continue an interrupted run folder; with --no-resume an existing one is an error."""
    save_steps: NonNegative = 100
    """Write a checkpoint every so many steps, and when interrupted in good order; 0: only then."""
    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """Checkpoints kept; the oldest go first."""


class DeviceOptions(Options):
    """What computes."""

    device: Device = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type the weights are held in."""


class TrainingOptions(DeviceOptions):
    """How a forward and backward pass is computed."""

    mixed_precision: Literal["no", "bf16"] = "no"
    """bf16: compute in bfloat16 under autocast, weights and optimiser as in --dtype."""
    micro_batch_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens per forward pass; 0 chooses for the device. Changes memory and speed, never the result."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a quarter more time."""


class PromptOptions(Options):
    """How prompts become tokens."""

    revision: str | None = None
    """Revision of a hub model."""
    chat_template: str | None = None
    """For a model without one: chatml, or a file with a Jinja template. Saved with the result."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to the chat template."""
    system: Literal["error", "merge"] = "error"
    """merge: put a system message into the first user turn where the template refuses one."""
    max_length: Positive = 1024
    """Tokens of prompt and completion together. Longer prompts lose their oldest turns; then completions are cut."""


class TextOptions(PromptOptions):
    """How prompts and completions become tokens."""

    prompt_format: Literal["template", "concat"] = "template"
    """concat: render prompt and completion apart, where the template is not a prefix of its own continuation."""
    keep_template_tail: bool = False
    """Train also on what the template writes after EOS (TRL does)."""


class OptimiserOptions(Options):
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    """Shape after the warm-up; linear and cosine end at zero."""
    warmup_ratio: Fraction = 0.0
    """Share of the steps over which the rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled; applied to matrices only."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm over all parameters."""


class EpochOptions(Options):
    """How often the data is read."""

    batch_size: Positive = 8
    """Demonstrations or comparisons per update, over all processes. Memory is --micro-batch-tokens' business."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the data; a fraction is allowed."""
    max_steps: NonNegative = 0
    """Stop after so many updates; 0: as many as the epochs give."""
    shuffle: bool = True
    """A new order each epoch, a function of seed and epoch; without it, the file's order."""
