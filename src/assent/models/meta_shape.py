"""The shape of any model that transformers can build: by its configuration, or by the model on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from assent.errors import ModelError
from assent.models.architectures import Sizes
from assent.models.loading import load_config
from assent.models.shape import ModelShape, depth_and_width


def shape_of(folder: Path) -> tuple[ModelShape, str]:
    """The model's shape, and where it is from: arithmetic over config.json for the architectures that are known by
    name, the model on the meta device for the others. No weights are read."""
    try:
        return ModelShape.of(folder), "arithmetic over config.json"
    except ModelError:
        return on_meta(load_config(folder)), "transformers' model on the meta device"


def on_meta(config: Any) -> ModelShape:
    """Names and shapes of the parameters are exact; sizes that the configuration does not have are derived. Raises
    ModelError for a configuration that is no causal language model."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # any error: the configuration lacks what the model's class needs
        raise ModelError(
            "the size of this model cannot be told from its configuration",
            got=f"model_type {config.model_type}: {str(error).splitlines()[0]}",
            expected="the configuration of a causal language model that transformers can build",
        ) from error
    text = config.get_text_config()
    weights = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    layers, width = depth_and_width(config)
    heads = getattr(text, "num_attention_heads", 0) or 1
    head_dim = getattr(text, "head_dim", None) or width // heads
    tied = bool(getattr(text, "tie_word_embeddings", False))
    sizes = Sizes(
        num_layers=layers,
        hidden_size=width,
        num_heads=heads,
        num_key_value_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * width,
        vocab_size=text.vocab_size,
        num_experts=getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None) or 0,
        num_experts_per_token=getattr(text, "num_experts_per_tok", None) or 0,
        expert_size=getattr(text, "moe_intermediate_size", None) or 0,
    )
    return ModelShape(text.model_type, sizes, tied, (None,) * layers, weights)
