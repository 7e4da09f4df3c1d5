"""Tiny causal models with weights large enough that context matters, and a tokenizer that names ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel


class IdTokenizer:
    """Decodes id 5 as "5"; ids below 3 are special."""

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: object) -> list[str]:
        return [" ".join(str(i) for i in row if i >= 3) for row in rows]


def tiny(config: PretrainedConfig | None = None, *, seed: int = 0, scale: float = 10.0) -> PreTrainedModel:
    """A random model of `config` (default: a Llama with grouped heads, vocabulary 32), its weights scaled up."""
    torch.manual_seed(seed)
    if config is None:
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            eos_token_id=None,
            bos_token_id=None,
        )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(scale)
    return model


@torch.no_grad()
def plain_logprobs(
    model: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int], temperature: float = 1.0
) -> torch.Tensor:
    """(len(ids),) by one full, unpadded read."""
    row = torch.tensor([[*prompt, *ids]])
    logits = model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
