"""Options shared by commands. Torch-free; frozen; an unknown key is an error; an attribute's docstring is its help."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from assent.config.base import Options
from assent.config.fixed import fixed
from assent.config.processes import ProcessOptions, RewardProcesses
from assent.config.trackers import WITH_PROJECT, check_trackers

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")]
Precision = Literal["no", "bf16"]
SamplerName = Literal["torch", "vllm"]
Trunk = Literal["separate", "shared", "one"]


class StageDefaults(Options):
    """Options that only some training commands have, with the value that holds for the others."""

    if TYPE_CHECKING:  # every training command has these two, each with a default of its own

        @property
        def batch_size(self) -> int: ...
        @property
        def shuffle(self) -> bool: ...

    @fixed
    def num_train_epochs(self) -> float:
        return 1.0

    @fixed
    def max_steps(self) -> int:
        return 0

    @fixed
    def total_steps(self) -> int:
        """Rounds of a command that samples its training data. 0 for the others."""
        return 0

    @fixed
    def eval_fraction(self) -> float | None:
        return None

    @fixed
    def eval_steps(self) -> int:
        return 0

    @fixed
    def metric_for_best_model(self) -> str | None:
        return None

    @fixed
    def early_stopping_patience(self) -> int | None:
        return None

    @fixed
    def early_stopping_threshold(self) -> float:
        return 0.0

    @fixed
    def eval_prompts(self) -> int:
        return 0

    @fixed
    def eval_max_new_tokens(self) -> int:
        return 0

    @fixed
    def reference(self) -> str | None:
        return None

    @fixed
    def reference_cache(self) -> str | None:
        return None

    @fixed
    def num_heads(self) -> int:
        return 1

    @fixed
    def num_adapters(self) -> int:
        return 1

    @fixed
    def reward_ensemble(self) -> str | None:
        return None

    @fixed
    def reward_processes(self) -> RewardProcesses:
        return "main"

    @fixed
    def sampler(self) -> SamplerName:
        return "torch"

    @fixed
    def temperature(self) -> float:
        return 1.0

    @fixed
    def importance_sampling_cap(self) -> float | None:
        return None

    @fixed
    def trunk(self) -> Trunk:
        return "separate"

    @fixed
    def offload_frozen(self) -> bool:
        return False

    @fixed
    def router_aux_loss_coef(self) -> float:
        return 0.0


class RunOptions(Options):
    """Where a run is written, and how it resumes."""

    output_dir: str
    """Folder of the run. An interrupted run of the same configuration resumes there."""
    seed: NonNegative = 0
    """Seed of the batch order and of all randomness."""
    resume: bool = True
    """Continue an interrupted run. With --no-resume, an existing run folder is an error."""
    recover: bool = False
    """Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and continue.
    The log says what was rebuilt."""
    fork: Annotated[str, Field(pattern=r"^.+@\d+$")] | None = None
    """Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The options
    may differ from that run's; they hold for the steps that follow, and that run is left as it is."""
    stop: bool = True
    """End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its model.
    With --no-stop the check only reports, and a run that it has ended continues."""
    stop_on: Literal["fatal", "fault"] = "fatal"
    """Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is wrong, or
    worse than it need be; about one healthy run in a hundred has one)."""
    save_steps: NonNegative = 100
    """Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an interrupt does."""
    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """Number of checkpoints to keep. The oldest are deleted first."""
    report_to: list[str] = Field(default_factory=list)
    """Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or module:Class."""
    project: str | None = None
    """Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is named after
    its folder."""
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None
    """Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other). Default: the
    licence of the model that training starts from."""

    @model_validator(mode="after")
    def _recovery_resumes(self) -> Self:
        if self.recover and not self.resume:
            raise ValueError("recover continues the run, and no-resume refuses to: leave one of them out")
        return self

    @model_validator(mode="after")
    def _only_a_run_that_stops_stops_on(self) -> Self:
        if not self.stop and self.stop_on != "fatal":
            raise ValueError("stop_on has no effect with no-stop: leave one of them out")
        return self

    @model_validator(mode="after")
    def _trackers_are_there(self) -> Self:
        check_trackers(self.report_to)
        if self.project is not None and not WITH_PROJECT & set(self.report_to):
            raise ValueError(
                f"project has no effect without {' or '.join(sorted(WITH_PROJECT))} in report_to: leave it out"
            )
        return self


class DeviceOptions(Options):
    """What the command computes on."""

    device: Device = "auto"
    """Where to compute: auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the weights."""
    allow_slow_dtype: bool = False
    """Compute in bfloat16 even on a processor that is over ten times slower at it than in float32."""

    @fixed
    def mixed_precision(self) -> Precision:
        return "no"

    @model_validator(mode="after")
    def _slowness_is_asked_for(self) -> Self:
        if self.allow_slow_dtype and (self.dtype, self.mixed_precision) == ("float32", "no"):
            raise ValueError("allow_slow_dtype has no effect with dtype float32: leave it out")
        return self


class AdapterOptions(Options):
    """LoRA (Hu et al., arXiv:2106.09685) and its variants, through PEFT. Dropout is always off."""

    lora_r: NonNegative = 0
    """Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights themselves."""
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    """The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r."""
    lora_target_modules: Annotated[list[str], Field(min_length=1)] | None = None
    """Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear layers except the
    head."""
    use_dora: bool = False
    """Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction."""
    use_rslora: bool = False
    """Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r)."""
    load_in_4bit: bool = False
    """Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the bitsandbytes
    package."""

    @model_validator(mode="after")
    def _adapter_options_have_effect(self) -> Self:
        names = ("lora_alpha", "lora_target_modules", "use_dora", "use_rslora", "load_in_4bit")
        idle = [name for name in names if getattr(self, name)]
        if idle and not self.lora_r:
            raise ValueError(f"{', '.join(idle)} has no effect without lora_r: give a rank, or leave it out")
        return self


class TrainingOptions(DeviceOptions, AdapterOptions, ProcessOptions):
    """How a forward and backward pass is computed, and which weights it trains."""

    mixed_precision: Precision = "no"
    """bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype."""
    micro_batch_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the result."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass. This saves memory and takes about a quarter more time."""
    master_weights: bool = False
    """With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small updates are not
    lost."""
    optim: Literal["adamw", "adamw_8bit"] = "adamw"
    """Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of eight. It
    needs the bitsandbytes package."""

    def num_updates(self, steps: int, *, learner: str = "model") -> int:
        """Optimiser steps that a learner takes when the stage has this many steps."""
        return steps

    @model_validator(mode="after")
    def _precision_has_effect(self) -> Self:
        if self.master_weights and self.dtype != "bfloat16":
            raise ValueError(
                "master_weights has no effect with dtype float32, as the weights are float32: leave it out"
            )
        if self.master_weights and self.lora_r:
            raise ValueError(
                "master_weights has no effect with lora_r, as adapters are trained in float32: leave it out"
            )
        if self.optim == "adamw_8bit" and self.master_weights:
            raise ValueError("master_weights adds four bytes per weight and optim adamw_8bit saves six: choose one")
        if self.optim == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError("optim adamw_8bit needs the package bitsandbytes: pip install bitsandbytes")
        if self.optim == "adamw_8bit" and self.sharding == "shard":
            raise ValueError("optim adamw_8bit cannot step sharded weights: leave it out, or give sharding replicate")
        if self.load_in_4bit and not self.device.startswith(("auto", "cuda")):
            raise ValueError(f"load_in_4bit needs CUDA, not device {self.device}: leave it out, or give --device cuda")
        return self


class PromptOptions(Options):
    """How prompts become tokens."""

    revision: str | None = None
    """Revision of a model on the hub."""
    chat_template: str | None = None
    """Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model is saved with
    it."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE."""
    system: Literal["error", "merge"] = "error"
    """What happens when the template refuses a system message. error: the command stops; merge: the message moves into
    the first user turn."""
    max_length: Positive = 1024
    """Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest turns and a long
    raw prompt its start; then the completion loses its end. A long raw prompt that is to be answered is refused
    instead."""

    @fixed
    def prompt_format(self) -> Literal["template", "concat"]:
        return "template"

    @fixed
    def keep_template_tail(self) -> bool:
        return False


class SamplerOptions(StageDefaults):
    """What samples completions."""

    sampler: SamplerName = "torch"
    """What samples completions. torch: the policy itself, through transformers. vllm: a vLLM engine (extra vllm), which
    receives the policy's weights whenever they change. For the same seed it draws the same completions, up to
    rounding."""

    @fixed
    def load_in_4bit(self) -> bool:
        return False

    @model_validator(mode="after")
    def _weights_can_be_handed_over(self) -> Self:
        if self.sampler == "vllm" and self.load_in_4bit:
            raise ValueError("sampler vllm cannot take the 4-bit weights of load_in_4bit: leave one of them out")
        return self


class SamplerNeeds(Protocol):
    """What opening a sampler needs."""

    @property
    def sampler(self) -> SamplerName: ...
    @property
    def dtype(self) -> Literal["float32", "bfloat16"]: ...
    @property
    def mixed_precision(self) -> Precision: ...
    @property
    def max_length(self) -> int: ...


class TextOptions(PromptOptions):
    """How prompts and completions become tokens."""

    prompt_format: Literal["template", "concat"] = "template"
    """concat: render prompt and completion separately. Choose it when the template renders a prompt differently once an
    answer follows."""
    keep_template_tail: bool = False
    """Also train on what the template writes after EOS, as TRL does."""


class OptimiserOptions(Options):
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    """Schedule of the learning rate after the warm-up. linear and cosine fall to zero."""
    warmup_ratio: Fraction = 0.0
    """Share of the steps in which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay. It applies to matrices only."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay rate of AdamW's first moment."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay rate of AdamW's second moment."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the square root of AdamW's second moment."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient over all parameters. A larger gradient is scaled down to it."""


class StageOptions(RunOptions, TrainingOptions, PromptOptions, OptimiserOptions, StageDefaults):
    """What a stage may read from the configuration of any training command."""

    if TYPE_CHECKING:  # every one has these two, each with help of its own

        @property
        def model(self) -> str: ...
        @property
        def data(self) -> str: ...

    @model_validator(mode="after")
    def _weights_can_be_sharded(self) -> Self:
        if self.sharding == "shard" and (self.trunk == "one" or self.num_adapters > 1):
            name = "trunk one" if self.trunk == "one" else "num_adapters"
            raise ValueError(f"with {name} several models share one base, which cannot be sharded: sharding replicate")
        if self.sharding == "shard" and self.offload_frozen:
            raise ValueError("offload_frozen moves whole models, and sharding shard has none: leave one of them out")
        return self


class EpochOptions(StageDefaults):
    """How often the data is read."""

    batch_size: Positive = 8
    """Rows per update, over all processes. Memory depends on --micro-batch-tokens instead."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the data. A fraction is allowed."""
    max_steps: NonNegative = 0
    """Stop after this many updates. 0: run all epochs."""
    shuffle: bool = True
    """Read the rows in a new order in each epoch, set by --seed and the epoch. With --no-shuffle they keep the file's
    order."""
