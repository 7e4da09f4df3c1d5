"""A tiny real model for tests of the engine."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from assent.models.module import AlignmentModel
from tests.support.engine import VOCABULARY


def tiny_llama(*, seed: int = 0, kind: str = "policy") -> AlignmentModel:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        num_labels=1,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    if kind == "policy":
        return AlignmentModel(LlamaForCausalLM(config), kind="policy")
    return AlignmentModel(LlamaForSequenceClassification(config), kind="scorer")
