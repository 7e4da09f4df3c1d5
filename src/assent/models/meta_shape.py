"""The shape of any model that transformers can build: by its configuration, or by the model on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from assent.errors import ModelError
from assent.models.architectures import Sizes
from assent.models.loading import load_config
from assent.models.shape import ModelShape, depth_and_width, layer_configs


def shape_of(folder: Path) -> tuple[ModelShape, str]:
    """The model's shape, and where it is from: arithmetic over its configuration for the architectures that are known
    by name, the model on the meta device for the others. Of an adapter it is the base. No weights are read."""
    config = load_config(folder)
    try:
        return ModelShape.of(json.loads(config.to_json_string(use_diff=False))), "arithmetic over config.json"
    except ModelError:
        return on_meta(config), "transformers' model on the meta device"


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
    # Where layers differ (Gemma 4), transformers refuses to read their sizes off the whole. The last sees all tokens.
    layer = (layer_configs(config) or (text,))[-1]
    heads = _largest(layer, "num_attention_heads") or 1
    tied = bool(getattr(text, "tie_word_embeddings", False))
    sizes = Sizes(
        num_layers=layers,
        hidden_size=width,
        num_heads=heads,
        num_key_value_heads=_largest(layer, "num_key_value_heads") or heads,
        head_dim=_largest(layer, "head_dim") or width // heads,
        intermediate_size=_largest(layer, "intermediate_size") or 4 * width,
        vocab_size=text.vocab_size,
        num_experts=_largest(layer, "num_experts") or _largest(layer, "num_local_experts"),
        num_experts_per_token=_largest(layer, "num_experts_per_tok"),
        expert_size=_largest(layer, "moe_intermediate_size"),
    )
    return ModelShape(text.model_type, sizes, tied, (None,) * layers, weights)


def _largest(config: Any, name: str) -> int:
    """A size of a layer; some configurations list it for every layer (Gemma 3n). 0 if there is none."""
    value = getattr(config, name, None) or 0
    return max(value) if isinstance(value, (list, tuple)) else value
