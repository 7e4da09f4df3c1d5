"""Whether several processes replicate a model or shard it, if the user leaves the choice to us."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from assent.config.options import StageOptions
from assent.engine.runtime import Runtime, Sharding
from assent.models.host_memory import keep_freed
from assent.models.saving import quiet

SHARE = 0.5
"""Above this share of a process's memory a whole copy leaves too little for activations and for other models."""


def choose_sharding(config: StageOptions, runtime: Runtime, start: Any) -> str | None:
    """Sets `runtime.sharding`. Returns a line for the log if there was a choice. All processes must call it.

    start   the configuration of the model that is trained
    """
    if runtime.num_processes == 1:
        return None
    line = _choose(config, runtime, start)
    if not runtime.is_sharded:  # kept, the blocks of layers that come and go would be several copies of the model
        keep_freed(runtime.device)
    return line


def _choose(config: StageOptions, runtime: Runtime, start: Any) -> str | None:
    if config.sharding != "auto":
        runtime.sharding = config.sharding
        return None
    if config.trunk == "one" or config.num_adapters > 1 or config.offload_frozen or config.optim == "adamw_8bit":
        return "sharding: replicate, because these options need whole weights in each process"
    size = trained_bytes(config, num_parameters(start))
    available = memory_of_a_process(runtime)
    choice: Sharding = runtime.from_main("shard" if size > SHARE * available else "replicate")
    runtime.sharding = choice
    return (
        f"sharding: {choice}, because a whole copy takes {size / 2**30:.2f} GiB of {available / 2**30:.2f} GiB "
        "for each process"
    )


def num_parameters(config: Any) -> int:
    """The weights of a causal model of this configuration. Nothing is allocated."""
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def trained_bytes(config: StageOptions, parameters: int) -> int:
    """Bytes of a whole copy: weights, and if they are trained, gradients and AdamW's two moments."""
    each = 2 if config.dtype == "bfloat16" else 4
    if config.lora_r:
        return parameters // 2 if config.load_in_4bit else parameters * each
    if config.master_weights:
        return parameters * (2 + 2 + 4 + 8)
    return parameters * 4 * each


def memory_of_a_process(runtime: Runtime) -> int:
    """Bytes of its device, or its part of this host's memory."""
    if runtime.device.type == "cuda":
        return int(torch.cuda.get_device_properties(runtime.device).total_memory)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
