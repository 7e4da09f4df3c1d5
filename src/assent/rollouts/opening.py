"""The sampler that a command's options ask for."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from assent.config.options import SamplerNeeds
from assent.models.adapters import is_adapted
from assent.models.handover import folder_weights
from assent.models.templates import Template
from assent.rollouts.torch_sampler import TorchSampler
from assent.rollouts.vllm_engine import check_vllm
from assent.rollouts.vllm_sampler import VllmSampler

ModelSampler = TorchSampler | VllmSampler


def check_sampler(config: SamplerNeeds) -> None:
    """ConfigError where the sampler asked for cannot run here; nothing is loaded."""
    if config.sampler == "vllm":
        check_vllm()


def open_sampler(
    config: SamplerNeeds, model: PreTrainedModel, template: Template, *, learns: bool = False
) -> ModelSampler:
    """Samples from `model`; `learns`: its weights change, and `load` says when.

    config   has `sampler` (torch where it has none), `dtype`, `max_length`, and perhaps `mixed_precision`
    """
    base: Any = model.get_base_model() if is_adapted(model) else model  # type: ignore[operator]
    if config.sampler == "torch":
        return TorchSampler(base, template.tokenizer, eos_ids=template.eos_ids)
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
