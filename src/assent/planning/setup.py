"""What a stage's memory and time depend on, besides the model's shape and the lengths of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

ONLINE = frozenset({"ppo", "a2c", "grpo", "rloo", "online-dpo"})
CRITICS = frozenset({"ppo", "a2c"})


@dataclass(frozen=True, slots=True)
class Setup:
    """How one stage is run.

    command           the training command
    lora_targets      the ends of the names of the layers that get an adapter; None: all linear layers but the head
    micro_batch_tokens   0: chosen for the device
    batch_size        rows of an update; of an online stage the prompts of a round
    own_reference     the reference is a model of its own path, and not the policy's start
    reads_reference   the loss reads a reference
    processes         that share the work; `sharded`: the weights too
    threads           of a CPU
    """

    command: str
    lora_r: int = 0
    lora_targets: tuple[str, ...] | None = None
    in_4bit: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    mixed_precision: Literal["no", "bf16"] = "no"
    optim: Literal["adamw", "adamw_8bit"] = "adamw"
    master_weights: bool = False
    gradient_checkpointing: bool = False
    trunk: Literal["separate", "shared", "one"] = "separate"
    micro_batch_tokens: int = 0
    batch_size: int = 8
    num_completions: int = 1
    max_new_tokens: int = 0
    max_length: int = 1024
    epochs: int = 1
    mini_batches: int = 1
    own_reference: bool = False
    reads_reference: bool = False
    offload_frozen: bool = False
    processes: int = 1
    sharded: bool = False
    threads: int = 1

    @classmethod
    def of(cls, command: str, config: Any, *, threads: int = 1, processes: int = 1, sharded: bool = False) -> Setup:
        """Of a training command's options (config/stages.py, config/online.py)."""
        epochs, mini_batches = getattr(config, "passes", (1, 1))
        targets = config.lora_target_modules
        return cls(
            command=command,
            lora_r=config.lora_r,
            lora_targets=tuple(targets) if targets else None,
            in_4bit=config.load_in_4bit,
            dtype=config.dtype,
            mixed_precision=config.mixed_precision,
            optim=config.optim,
            master_weights=config.master_weights,
            gradient_checkpointing=config.gradient_checkpointing,
            trunk=config.trunk,
            micro_batch_tokens=config.micro_batch_tokens,
            batch_size=config.batch_size,
            num_completions=getattr(config, "num_completions", 1),
            max_new_tokens=getattr(config, "max_new_tokens", 0),
            max_length=config.max_length,
            epochs=epochs,
            mini_batches=mini_batches,
            own_reference=config.reference is not None,
            reads_reference=_reads_reference(command, config),
            offload_frozen=config.offload_frozen,
            processes=processes,
            sharded=sharded,
            threads=threads,
        )

    @property
    def is_online(self) -> bool:
        return self.command in ONLINE

    @property
    def has_critic(self) -> bool:
        """A critic beside the policy: its own model, or an adapter on the policy's base."""
        return self.command in CRITICS and self.trunk != "shared"

    @property
    def keeps_reference(self) -> bool:
        """Whether a reference's own weights stay in memory while the policy trains. A fixed data set's are read once,
        before training."""
        return self.is_online and (self.own_reference or not self.lora_r)

    @property
    def weight_bytes(self) -> int:
        return 2 if self.dtype == "bfloat16" else 4


def _reads_reference(command: str, config: Any) -> bool:
    if command in ONLINE or command == "kto":
        return True
    entries = getattr(config, "entries", ())
    return command == "dpo" and any(entry.declaration.needs_reference for entry in entries)
