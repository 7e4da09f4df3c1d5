"""Tiny random models of architectures that have no class for sequence classification in transformers."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.architectures import _BASE, _MOE, _SMALL, WINDOW

_SSM = {"mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16, "mamba_n_heads": 4}
CAUSAL_ONLY: dict[str, tuple[str, dict[str, Any]]] = {
    "olmoe": ("Olmoe", {**_BASE, **_MOE, "num_experts": 4}),
    "bamba": ("Bamba", {**_BASE, **_SSM, "mamba_d_head": 16, "mamba_expand": 2, "attn_layer_indices": [1]}),
    "falcon-h1": ("FalconH1", {**_BASE, **_SSM, "mamba_d_ssm": 32, "mamba_d_head": 8, "head_dim": 8}),
    "gemma3n-text": (
        "Gemma3nText",
        {
            **_BASE,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": WINDOW,
            "vocab_size_per_layer_input": _BASE["vocab_size"],
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "num_kv_shared_layers": 2,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "granite-moe": ("GraniteMoe", {**_BASE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "apertus": ("Apertus", _BASE),
    "ernie-4.5": ("Ernie4_5", {**_BASE, "head_dim": 8}),
    "lfm2": ("Lfm2", {**_BASE, "layer_types": ["conv", "full_attention"]}),
    "rwkv": (
        "Rwkv",
        {
            **_SMALL,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "attention_hidden_size": 32,
            "intermediate_size": 48,
            "context_length": 64,
        },
    ),
    "llama4-text": (
        "Llama4Text",
        {
            **_BASE,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "num_local_experts": 2,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": WINDOW,
        },
    ),
    "mamba": ("Mamba", {**_SMALL, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "cohere": ("Cohere", {**_BASE, "logit_scale": 0.25}),
    "bert-decoder": (
        "Bert",
        {
            **_SMALL,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "is_decoder": True,
        },
    ),
}
"""name: (prefix of the configuration's class, options). A BERT has such a class, but its head is no linear `score`."""


def causal_only(name: str, *, seed: int = 1, **more: Any) -> PreTrainedModel:
    """A random causal model whose every weight matters."""
    prefix, options = CAUSAL_ONLY[name]
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        getattr(transformers, f"{prefix}Config")(**{**options, **more})
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.3 if parameter.ndim == 1 else 0.15))
    return model
