"""Tiny models of many architectures and the plain computation that packed reads are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from assent.models.batch import TokenCompletion, TokenGroup
from tests.support.models import random_model

VOCABULARY = 61
WINDOW = 8
_SMALL = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_BASE = {
    **_SMALL,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MIXED = ["sliding_attention", "full_attention"]


def _window(**more: Any) -> dict[str, Any]:
    return {**_BASE, "sliding_window": WINDOW, **more}


ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    # name: (prefix of the transformers classes, configuration, the tier it must get)
    "llama": ("Llama", _BASE, "segments"),
    "llama-one-key-head": ("Llama", {**_BASE, "num_key_value_heads": 1, "tie_word_embeddings": True}, "segments"),
    "qwen2": ("Qwen2", _BASE, "segments"),
    "qwen2-window": ("Qwen2", _window(use_sliding_window=True, max_window_layers=1), "segments"),
    "qwen3": ("Qwen3", {**_BASE, "head_dim": 8}, "segments"),
    "gemma2": (
        "Gemma2",
        _window(head_dim=8, layer_types=_MIXED, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
        "segments",
    ),
    "gemma3": ("Gemma3", _window(head_dim=8, layer_types=_MIXED), "segments"),
    "mistral": ("Mistral", _window(), "segments"),
    "phi3": ("Phi3", _window(), "segments"),
    "olmo2": ("Olmo2", _BASE, "segments"),
    "olmo3": ("Olmo3", _window(layer_types=_MIXED), "segments"),
    "gpt2": (
        "GPT2",
        {**_SMALL, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "tie_word_embeddings": True},
        "segments",
    ),
    "gpt-neox": ("GPTNeoX", {**_BASE, "rotary_pct": 0.5}, "segments"),
    "mixtral": ("Mixtral", {**_BASE, "num_local_experts": 4, "num_experts_per_tok": 2}, "segments"),
    "olmoe": ("Olmoe", {**_BASE, "num_experts": 4, "num_experts_per_tok": 2}, "segments"),
    "qwen2-moe": (
        "Qwen2Moe",
        {**_BASE, **_MOE, "num_experts": 4, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 1},
        "segments",
    ),
    "qwen3-moe": ("Qwen3Moe", {**_BASE, **_MOE, "num_experts": 4, "head_dim": 8, "decoder_sparse_step": 1}, "segments"),
    "gpt-oss": (
        "GptOss",
        _window(head_dim=8, layer_types=_MIXED, num_local_experts=4, num_experts_per_tok=2),
        "segments",
    ),
    "smollm3": ("SmolLM3", _BASE, "segments"),
    "phi": ("Phi", {**_BASE, "partial_rotary_factor": 0.5}, "segments"),
    "opt": ("OPT", {**_BASE, "ffn_dim": 48, "word_embed_proj_dim": 16}, "segments"),
    "cohere": ("Cohere", {**_BASE, "logit_scale": 0.25}, "segments"),
    "granite": (
        "Granite",
        {**_BASE, "logits_scaling": 4.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5},
        "segments",
    ),
    "falcon-rotary": ("Falcon", {**_BASE, "alibi": False, "multi_query": True}, "mask"),
    "falcon-alibi": ("Falcon", {**_BASE, "alibi": True, "multi_query": False}, "padded"),
    "bloom": ("Bloom", {**_SMALL, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "padded"),
    "mamba": ("Mamba", {**_SMALL, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "padded"),
    "recurrent-gemma": (
        "RecurrentGemma",
        {
            **_BASE,
            "num_hidden_layers": 3,
            "lru_width": 32,
            "attention_window_size": WINDOW,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
        "padded",
    ),
    "qwen3-next": (
        "Qwen3Next",
        {
            **_BASE,
            **_MOE,
            "head_dim": 8,
            "num_experts": 4,
            "shared_expert_intermediate_size": 24,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        "padded",
    ),
}


def make_model(name: str, *, kind: str = "policy", seed: int = 1, **more: Any) -> PreTrainedModel:
    """A random model whose attention, heads and biases all matter: weights are much larger than at initialisation."""
    prefix, options, _ = ARCHITECTURES[name]
    config_class = getattr(transformers, "Gemma3TextConfig" if prefix == "Gemma3" else f"{prefix}Config")
    config = config_class(**{**options, **more})
    model = random_model(config, kind=kind, num_labels=more.get("num_labels", 1), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.3 if parameter.ndim == 1 else 0.15))
    return model


def random_groups(
    shapes: Sequence[tuple[int, Sequence[int]]] = ((11, (5, 12, 3)), (4, (9,)), (17, (2, 14)), (1, (1, 6))),
    *,
    seed: int = 0,
    holes: bool = True,
) -> list[TokenGroup]:
    """Groups of (prompt length, completion lengths); ids keep clear of the pad id; masks have holes."""
    generator = np.random.default_rng(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(generator.integers(3, VOCABULARY, length).tolist())

    def completion(length: int) -> TokenCompletion:
        mask = tuple((generator.random(length) < 0.7).tolist()) if holes and length > 2 else None
        return TokenCompletion(ids(length), mask)

    return [TokenGroup(ids(p), tuple(completion(n) for n in ns), source=f"row {p}") for p, ns in shapes]


def plain_logprobs(model: PreTrainedModel, groups: Sequence[TokenGroup], *, temperature: float = 1.0) -> Tensor:
    """(N,) log-probabilities of counted tokens: one plain call over padded rows, one row for each completion."""
    logits, ids, prompts, completions = _plain_logits(model, groups)
    parts = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        end = prompt + len(completion.ids)
        logp = (logits[row, prompt - 1 : end - 1].float() / temperature).log_softmax(-1)
        chosen = logp.gather(1, ids[row, prompt:end, None])[:, 0]
        mask = completion.mask or (True,) * len(completion.ids)
        parts.append(chosen[torch.tensor(mask, dtype=torch.bool)])
    return torch.cat(parts)


def _plain_logits(model: PreTrainedModel, groups: Sequence[TokenGroup]) -> tuple[Tensor, Tensor, list[int], list[Any]]:
    rows = [(g.prompt_ids, c) for g in groups for c in g.completions]
    width = max(len(p) + len(c.ids) for p, c in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for row, (prompt, completion) in enumerate(rows):
        length = len(prompt) + len(completion.ids)
        ids[row, :length] = torch.tensor(prompt + completion.ids)
        mask[row, :length] = 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits, ids, [len(p) for p, _ in rows], [c for _, c in rows]


def plain_scores(model: PreTrainedModel, groups: Sequence[TokenGroup]) -> Tensor:
    """(S, heads) one plain call for each completion, without padding."""
    rows = [g.prompt_ids + c.ids for g in groups for c in g.completions]
    return torch.cat([model(input_ids=torch.tensor([row]), use_cache=False).logits for row in rows])


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got: dict[str, Tensor], expected: dict[str, Tensor], *, tolerance: float = 1e-5) -> None:
    """Each tensor's largest difference is at most `tolerance` of its largest entry.

    A tensor whose gradient is zero but for rounding (a key bias without rotary positions) is compared with the
    largest gradient of all instead.
    """
    assert got.keys() == expected.keys()
    rounding = 1e-6 * max(float(g.abs().max()) for g in expected.values())
    for name, reference in expected.items():
        largest = float(reference.abs().max())
        difference = float((got[name] - reference).abs().max())
        assert difference <= max(tolerance * largest, 0.1 * rounding if largest > rounding else rounding), (
            f"{name}: {difference:.3g} of {largest:.3g}"
        )


def weighted(values: Tensor) -> Tensor:
    """A scalar to which each value contributes with a weight of its own."""
    weights = torch.from_numpy(np.random.default_rng(5).normal(size=tuple(values.shape))).to(values.dtype)
    return (values * weights).sum()


Factory = Callable[..., PreTrainedModel]


WHOLE = {"gpt-oss", "opt"}
"""Whose MLP gives more than states, or is no module of its own."""


def seen_by_last_mlp(model: PreTrainedModel) -> list[int]:
    """Tokens that reach the product of the last layer's MLP, by pass."""
    trunk = getattr(model, model.base_model_prefix)
    layer = (trunk.layers if hasattr(trunk, "layers") else trunk.h)[-1]
    seen: list[int] = []
    layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2]))
    return seen
