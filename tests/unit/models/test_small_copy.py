"""A small copy has the same class and a layer of each kind, and declares no length that a probe's rows do not pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from assent.models.small_copy import MOST_WEIGHTS, ROWS, small_config, small_copy
from assent.models.small_options import LENGTHS, has_regime, small_options, with_layers
from tests.support.architectures import make_model

FULL_SIZE = [
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "phimoe", "olmo3", "gpt2", "gpt_neox"),
    *("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "smollm3", "opt", "cohere2", "granite", "falcon", "bloom"),
    *("deepseek_v3", "deepseek_v32", "glm4_moe", "llama4_text", "modernbert-decoder", "ministral3", "gemma4_text"),
    *("mamba", "bamba", "recurrent_gemma", "qwen3_next", "lfm2", "kimi_linear", "exaone_moe", "granitemoehybrid"),
]


def layers_of(model: PreTrainedModel, number: int) -> list[nn.Module]:
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == number)
    return list(next(lists))


def kinds(model: PreTrainedModel) -> set[Any]:
    """The classes of each layer's modules, and whether they have a window."""
    found = set()
    for layer in layers_of(model, model.config.num_hidden_layers):
        slides = any(getattr(module, "sliding_window", None) for module in layer.modules())
        found.add((tuple((name, type(module).__name__) for name, module in layer.named_modules()), slides))
    return {(tuple(sorted({n for _, n in names})), slides) for names, slides in found}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_copy_of_a_full_size_model_keeps_its_class_and_its_kinds_of_layers(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name))
        small = type(model)._from_config(small_config(model.config, model_class=type(model)))
    assert kinds(small) == kinds(model)
    assert small.config.num_hidden_layers < 8
    assert sum(weight.numel() for weight in small.parameters()) <= MOST_WEIGHTS
    few, many = small.config.to_dict(), model.config.to_dict()
    for option in ("tie_word_embeddings", "final_logit_softcapping", "attn_logit_softcapping", "head_dim"):
        assert few.get(option) == many.get(option)
    for option, value in few.items():
        if LENGTHS.search(option) and type(value) is int:
            no_row_is_longer = many[option] >= many.get("max_position_embeddings", 10**9)
            assert value < ROWS or no_row_is_longer or option.startswith("original"), (option, value)


@pytest.mark.parametrize("name", ["llama", "qwen2-moe", "gemma2"])
def test_a_classifiers_copy_is_a_classifier(name: str) -> None:
    model = make_model(name, kind="scorer")
    copy = small_copy(model)
    assert copy is not None
    assert type(copy) is type(model)
    assert isinstance(model, AutoModelForSequenceClassification._model_mapping[type(model.config)])


def test_a_copy_by_hand() -> None:
    """Of SmolLM2-135M."""
    config = AutoConfig.for_model(
        "llama", hidden_size=576, num_attention_heads=9, num_key_value_heads=3, head_dim=64, num_hidden_layers=30
    )
    small = small_config(config)
    assert small is not None
    assert (small.num_attention_heads, small.num_key_value_heads, small.head_dim) == (6, 2, 64)
    assert (small.hidden_size, small.intermediate_size, small.num_hidden_layers, small.vocab_size) == (384, 64, 2, 256)
    assert config.num_hidden_layers == 30  # as it was


def test_lengths_by_hand() -> None:
    options = {
        "max_position_embeddings": 4096,
        "sliding_window": 512,
        "attention_chunk_size": 4096,  # no row is longer
        "index_topk": 6,
        "sliding_window_pattern": 6,
        "original_max_position_embeddings": 2048,
        "rope_parameters": {
            "full_attention": {"rope_type": "yarn", "original_max_position_embeddings": 2048},
            "sliding_attention": {"rope_type": "default"},
        },
    }
    small = small_options(options, {}, rows=18, narrow=True)
    assert (small["sliding_window"], small["attention_chunk_size"], small["index_topk"]) == (8, 4096, 6)
    assert (small["sliding_window_pattern"], small["original_max_position_embeddings"]) == (6, 8)
    assert small["rope_parameters"]["full_attention"]["original_max_position_embeddings"] == 8
    assert small_options(options, {}, rows=10, narrow=True)["sliding_window"] == 4
    regime = {"rope_type": "longrope", "original_max_position_embeddings": 2048}
    kept = small_options({**options, "rope_parameters": regime}, {}, rows=18, narrow=True)
    assert has_regime(regime)
    assert (kept["rope_parameters"], kept["original_max_position_embeddings"]) == (regime, 2048)


def test_layers_by_hand() -> None:
    options = {
        "num_hidden_layers": 6,
        "layer_types": ["a", "a", "b", "a", "a", "b"],
        "mlp_only_layers": [0, 1],
        "first_k_dense_replace": 2,
        "num_kv_shared_layers": 1,
        "per_layer_config": {"02": {"head_dim": 4}, "05": {"head_dim": 8}},
        "moe_layers": [0, 1, 2, 3, 4, 5],
    }
    assert with_layers(options, {}, [1, 4, 5], layers=6) == {
        "num_hidden_layers": 3,
        "layer_types": ["a", "a", "b"],
        "mlp_only_layers": [0],
        "first_k_dense_replace": 1,
        "num_kv_shared_layers": 1,
        "per_layer_config": {"2": {"head_dim": 8}},
        "moe_layers": [0, 1, 2],
    }


def test_copies_are_alike_and_leave_torchs_generator_alone() -> None:
    model = make_model("gpt-oss")
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first, second = small_copy(model), small_copy(model, dtype=torch.bfloat16)
    assert first is not None
    assert second is not None
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    again = small_copy(model)
    assert again is not None
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert (first.dtype, second.dtype, first.device) == (torch.float32, torch.bfloat16, model.device)


def test_what_cannot_be_copied_is_not() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = AutoConfig.for_model("llama")

    assert small_copy(Own()) is None  # type: ignore[arg-type]
