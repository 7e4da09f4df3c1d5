"""Opens the sampler that a command's options choose."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from assent.config.options import SamplerNeeds
from assent.models.adapters import is_adapted
from assent.models.saving import folder_weights
from assent.models.templates import Template
from assent.rollouts.torch_sampler import TorchSampler
from assent.rollouts.vllm_engine import check_vllm
from assent.rollouts.vllm_sampler import VllmSampler
from assent.runs.progress import Progress

ModelSampler = TorchSampler | VllmSampler


def check_sampler(config: SamplerNeeds) -> None:
    """Raises ConfigError if the chosen sampler cannot run here. Loads nothing."""
    if config.sampler == "vllm":
        check_vllm()


def open_sampler(
    config: SamplerNeeds,
    model: PreTrainedModel,
    template: Template,
    *,
    learns: bool = False,
    progress: Progress | None = None,
) -> ModelSampler:
    """A sampler of `model`. With `learns` its weights change, and the caller says so with `load`.

    progress   where a long sampling shows how far it is; vLLM shows none
    config     has `sampler` (default: torch), `dtype`, `max_length` and optionally `mixed_precision`
    """
    base: Any = model.get_base_model() if is_adapted(model) else model  # type: ignore[operator]
    if config.sampler == "torch":
        own = TorchSampler(base, template.tokenizer, eos_ids=template.eos_ids)
        own.progress = progress or own.progress
        return own
    in_bfloat16 = config.mixed_precision == "bf16"
    sampler = VllmSampler(
        base,
        template.tokenizer,
        eos_ids=template.eos_ids,
        dtype="bfloat16" if in_bfloat16 else config.dtype,
        max_length=config.max_length,
        weights=(lambda: folder_weights(model)) if learns else None,
    )
    if not learns:
        sampler.load(folder_weights(model), "as loaded")
    return sampler
