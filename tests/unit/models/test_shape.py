"""A model's sizes, weights and FLOPs from its config.json are those of transformers' model."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from assent.errors import ModelError
from assent.models.architectures import FAMILIES
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.meta_shape import on_meta, shape_of
from assent.models.module import AlignmentModel
from assent.models.shape import Cost, GivenLengths, ModelShape, attended_pairs, tokens_per_pass
from assent.planning.memory import predict
from assent.planning.setup import Setup
from tests.support.adapters import adapted
from tests.support.architectures import ARCHITECTURES, WINDOW, random_groups
from tests.support.causal_only import CAUSAL_ONLY
from tests.support.engine import make_groups
from tests.support.models import tiny_llama, tiny_module

GROUP = TokenGroup((1,) * 6, (TokenCompletion((2,) * 4), TokenCompletion((3,) * 2)))
_BASE = ARCHITECTURES["llama"][1]
_SLIDING_FIRST = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
_LISTED = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": WINDOW}
_QWEN_EXPERTS = ARCHITECTURES["qwen2-moe"][1]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ARCHITECTURES[name][:2] for name in ARCHITECTURES if name not in {"phi", "opt"}},
    "llama-biases": ("Llama", {**_BASE, "attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "granite-biases": ("Granite", {**_BASE, "attention_bias": True, "mlp_bias": True}),
    "mistral-whole": ("Mistral", {**_BASE, "sliding_window": None, "tie_word_embeddings": True}),
    "qwen2-tied": ("Qwen2", {**_BASE, "tie_word_embeddings": True}),
    "qwen3-window": ("Qwen3", {**_BASE, **_LISTED, "head_dim": 8, "use_sliding_window": True, "attention_bias": True}),
    "gemma": ("Gemma", {**_BASE, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma3-listed": ("Gemma3", {**_BASE, **_LISTED, "head_dim": 8, "tie_word_embeddings": True}),
    "olmo": ("Olmo", _BASE),
    "olmo3-four": ("Olmo3", {**_BASE, "num_hidden_layers": 5, "sliding_window": WINDOW}),
    "smollm3-window": ("SmolLM3", {**_BASE, **_LISTED, "use_sliding_window": True, "mlp_bias": True}),
    "mixtral-window": ("Mixtral", {**_BASE, "num_local_experts": 6, "num_experts_per_tok": 1, "sliding_window": 3}),
    "qwen2-moe-some-dense": ("Qwen2Moe", {**_QWEN_EXPERTS, "num_experts": 6, "decoder_sparse_step": 2}),
    "qwen2-moe-no-bias": ("Qwen2Moe", {**_QWEN_EXPERTS, "mlp_only_layers": [0], "qkv_bias": False}),
    "qwen3-moe-window": ("Qwen3Moe", {**ARCHITECTURES["qwen3-moe"][1], "use_sliding_window": True}),
    "gpt2-untied": ("GPT2", {**ARCHITECTURES["gpt2"][1], "n_inner": 40, "tie_word_embeddings": False}),
    "arcee": ("Arcee", {**_BASE, "mlp_bias": True}),
    "cohere2": ("Cohere2", {**_BASE, "num_hidden_layers": 5, "sliding_window": WINDOW, "attention_bias": True}),
    "ernie": ("Ernie4_5", {**_BASE, "head_dim": 16, "use_bias": True}),
    "glm": ("Glm", {**_BASE, "head_dim": 8}),
    "glm4": ("Glm4", {**_BASE, "head_dim": 8, "attention_bias": False}),
    "helium": ("Helium", {**_BASE, "head_dim": 8, "attention_bias": True, "mlp_bias": True}),
    "nemotron": ("Nemotron", {**_BASE, "attention_bias": True}),
    "olmoe": ("Olmoe", {**_BASE, "num_experts": 4, "num_experts_per_tok": 2}),
    "seed-oss": ("SeedOss", {**_BASE, "head_dim": 8, "attention_out_bias": True}),
    "stablelm": ("StableLm", {**_BASE, "use_qkv_bias": True}),
    "starcoder2": ("Starcoder2", {**_BASE, "sliding_window": 5}),
    "starcoder2-no-bias": ("Starcoder2", {**_BASE, "use_bias": False}),
    "gpt-neox-no-bias": ("GPTNeoX", {**_BASE, "attention_bias": False}),
}
CASES = {
    name: case
    for name, case in CASES.items()
    if {"Gemma3": "gemma3_text"}.get(case[0], getattr(transformers, f"{case[0]}Config").model_type) in FAMILIES
}


def config_of(name: str) -> Any:
    prefix, options = CASES[name]
    return getattr(transformers, "Gemma3TextConfig" if prefix == "Gemma3" else f"{prefix}Config")(**options)


CLASSIFIED = AutoModelForSequenceClassification._model_mapping
"""Configurations for which transformers has a classifier."""


def as_json(config: Any) -> dict[str, Any]:
    """As it stands in config.json."""
    return json.loads(config.to_json_string())


def built(config: Any, *, scorer: bool = False) -> PreTrainedModel:
    with torch.device("meta"):
        return (AutoModelForSequenceClassification if scorer else AutoModelForCausalLM).from_config(config)


@cache
def model_of(name: str, *, scorer: bool = False) -> PreTrainedModel:
    return built(config_of(name), scorer=scorer)


def shapes(model: PreTrainedModel) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]


READ_AT_CALLS = ("mistral", "mixtral", "phi3", "starcoder2")


def windows(model: PreTrainedModel) -> tuple[int | None, ...]:
    """Of the attention modules, in the layers' order."""
    attentions = [m for name, m in model.named_modules() if name.endswith((".self_attn", ".attn", ".attention"))]
    assert len(attentions) == model.config.num_hidden_layers
    # mistral and its kind read it of the configuration at each call
    shared = model.config.sliding_window if model.config.model_type in READ_AT_CALLS else None
    return tuple(getattr(attention, "sliding_window", shared) for attention in attentions)


def test_every_architecture_has_a_case() -> None:
    assert {config_of(name).model_type for name in CASES} == set(FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_weights_are_transformers(name: str) -> None:
    model = model_of(name)
    shape = ModelShape.of(as_json(model.config))
    assert list(shape.weights.items()) == shapes(model)
    assert shape.num_parameters == model.num_parameters()
    assert shape.windows == windows(model)
    text = model.config
    assert (shape.sizes.num_layers, shape.sizes.hidden_size) == (text.num_hidden_layers, text.hidden_size)
    assert shape.tie_word_embeddings == text.tie_word_embeddings


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "repeated"])
@pytest.mark.parametrize("name", CASES)
def test_the_cost_is_that_of_the_built_model(name: str, shared: bool) -> None:
    model = model_of(name)
    cost = ModelShape.of(as_json(model.config)).cost(shared=shared)
    assert cost == Cost.of(model, shared=shared)
    assert cost.update(random_groups()) == Cost.of(model, shared=shared).update(random_groups()) > 0


@pytest.mark.parametrize("name", [name for name in CASES if type(config_of(name)) in CLASSIFIED])
def test_a_classifier_has_a_score_head_in_place_of_the_vocabulary(name: str) -> None:
    config = config_of(name)
    config.num_labels = 3
    model = built(config, scorer=True)
    shape = ModelShape.of(as_json(config), num_labels=3)
    assert list(shape.weights.items()) == shapes(model)
    assert shape.cost() == Cost.of(model, shared=True)
    saved = as_json(config) | {"architectures": [type(model).__name__]}
    assert ModelShape.of(saved) == shape
    del saved["id2label"]
    assert ModelShape.of(saved).weights["score.weight"] == (2, shape.sizes.hidden_size)


@pytest.mark.parametrize("name", CASES)
def test_an_option_that_config_json_leaves_out_is_named_or_is_what_transformers_take_for_it(name: str) -> None:
    given = as_json(config_of(name))
    refused = []
    for option in sorted(given.keys() - {"model_type"}):
        rest = {key: value for key, value in given.items() if key != option}
        try:
            shape = ModelShape.of(rest)
        except ModelError as error:
            refused.append((option, str(error)))
            continue
        if option.startswith(("rope_", "rms_", "init", "hidden_act", "bos_", "eos_", "pad_", "transformers_")):
            assert shape == ModelShape.of(given)
            continue
        if name == "nemotron" and option == "num_key_value_heads":  # transformers itself cannot build it then
            continue
        model = built(AutoConfig.for_model(**rest))
        assert list(shape.weights.items()) == shapes(model), option
        assert shape.windows == windows(model), option
    assert len(refused) >= 4
    for option, message in refused:
        assert option in message


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257},
         124_439_808),
        ({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
          "num_hidden_layers": 32, "tie_word_embeddings": False, "vocab_size": 32000}, 6_738_415_616),
        ({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
          "num_hidden_layers": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "vocab_size": 128256},
         8_030_261_248),
        ({"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
          "num_hidden_layers": 24, "num_key_value_heads": 2, "tie_word_embeddings": True, "use_sliding_window": False,
          "vocab_size": 151936}, 494_032_768),
        ({"model_type": "gemma", "head_dim": 256, "hidden_size": 2048, "intermediate_size": 16384,
          "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1, "vocab_size": 256000},
         2_506_172_416),
        ({"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
          "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
          "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32000}, 46_702_792_704),
    ],
    ids=["gpt2", "llama-2-7b", "llama-3-8b", "qwen2.5-0.5b", "gemma-2b", "mixtral-8x7b"],
)  # fmt: skip
def test_published_models_have_their_published_number_of_parameters(config: dict[str, Any], parameters: int) -> None:
    assert ModelShape.of(config).num_parameters == parameters


def test_an_architecture_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)cannot be read from its config\.json.*got: +model_type qwen3_next"):
        ModelShape.of({"model_type": "qwen3_next"})
    with pytest.raises(ModelError, match=r"has no config\.json"):
        ModelShape.of(tmp_path)
    (tmp_path / "config.json").write_text(config_of("llama").to_json_string())
    assert ModelShape.of(tmp_path) == ModelShape.of(str(tmp_path)) == ModelShape.of(as_json(config_of("llama")))
    with pytest.raises(ModelError, match="does not give num_hidden_layers"):
        ModelShape.of({"model_type": "llama", "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8})


def test_lengths_alone_cost_what_their_tokens_do() -> None:
    groups = random_groups()
    given = [
        GivenLengths(
            len(g.prompt_ids), tuple(len(c.ids) for c in g.completions), sum(c.num_counted for c in g.completions)
        )
        for g in groups
    ]
    for shared in (True, False):
        cost = ModelShape.of(as_json(config_of("llama"))).cost(shared=shared)
        assert (cost.update(given), cost.score(given)) == (cost.update(groups), cost.score(groups))
        assert [attended_pairs(g, shared=shared) for g in given] == [attended_pairs(g, shared=shared) for g in groups]


def test_a_planned_pass_reads_as_many_tokens_as_a_built_models() -> None:
    shape = ModelShape.of({**as_json(config_of("llama")), "num_hidden_layers": 64, "hidden_size": 4096})
    assert tokens_per_pass(shape.sizes.num_layers, shape.sizes.hidden_size, "cpu") == 384
    assert tokens_per_pass(shape.sizes.num_layers, shape.sizes.hidden_size, "cuda") == 16384


def test_attended_pairs_by_hand() -> None:
    # P = 6, C = 4, R = 2 (performance.md, roofline): P²/2 + PC + C²/2 + PR + R²/2
    assert attended_pairs(GROUP, shared=True) == 18 + 24 + 8 + 12 + 2
    assert attended_pairs(GROUP, shared=False) == ((6 + 4) ** 2 + (6 + 2) ** 2) / 2


@pytest.mark.parametrize(("shared", "tokens", "pairs"), [(True, 12, 64), (False, 18, 82)])
def test_forward_flops_by_hand(shared: bool, tokens: int, pairs: int) -> None:
    cost = Cost.of(tiny_module(), shared=shared)
    layer = 16 * 16 + 2 * 8 * 16 + 16 * 16 + 3 * 16 * 32  # q, k and v of one head, o, three of the MLP
    assert cost.trunk_weights == 2 * layer  # the tied embedding is a lookup
    assert cost.head_weights == 17 * 16
    assert cost.forward([GROUP]) == 2 * 2 * layer * tokens + 4 * 2 * 16 * pairs + 2 * 17 * 16 * 6


def test_a_scorers_head_is_counted_once_per_score_not_per_token() -> None:
    cost = Cost.of(tiny_module(kind="scorer"), shared=True)
    assert cost.head_weights == 16


def test_flops_of_a_score_and_of_sampling_by_hand() -> None:
    layer = 16 * 16 + 2 * 8 * 16 + 16 * 16 + 3 * 16 * 32
    scorer = Cost.of(tiny_module(kind="scorer"), shared=True)
    assert scorer.score([GROUP]) == 2 * 2 * layer * 12 + 4 * 2 * 16 * 64 + 2 * 16 * 2  # the head at two last tokens
    policy = Cost.of(tiny_module(), shared=False)  # sampling reads a prompt once, however training does
    # read: the prompt's 6 tokens, then 3 of 4 and 1 of 2; chosen from: the prompt's last and those 3 + 1
    pairs = 6**2 / 2 + (6 * 3 + 3**2 / 2) + (6 * 1 + 1**2 / 2)
    assert policy.sample(6, [4, 2]) == 2 * 2 * layer * (6 + 3 + 1) + 4 * 2 * 16 * pairs + 2 * 17 * 16 * (1 + 3 + 1)
    assert policy.sample(6, [1]) == 2 * 2 * layer * 6 + 4 * 2 * 16 * 18 + 2 * 17 * 16


def test_weights_beside_an_adapter_cost_no_gradients_of_their_own() -> None:
    groups = make_groups(3)
    plain = Cost.of(tiny_module(), shared=True)
    cost = Cost.of(AlignmentModel(adapted(tiny_llama()), kind="policy"), shared=True)
    per_layer = 3 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 32))  # rank 3: q, o; k, v; gate, up, down
    assert cost.trunk_weights == plain.trunk_weights + 2 * per_layer
    assert cost.head_weights == plain.head_weights
    trained = 2 * per_layer / (cost.trunk_weights + cost.head_weights)
    attention = plain.forward(groups) - replace(plain, attention_width=0).forward(groups)
    weights = cost.forward(groups) - attention
    assert cost.update(groups) == pytest.approx(2 * cost.forward(groups) + trained * weights + attention)
    scorer = Cost.of(AlignmentModel(adapted(tiny_llama(kind="scorer")), kind="scorer"), shared=True)
    assert scorer.head_weights == 16  # the trained copy alone


@pytest.mark.parametrize(
    ("kind", "option"),
    [("cohere", "use_qk_norm"), ("stablelm", "qk_layernorm"), ("stablelm", "use_parallel_residual")],
)
def test_weights_that_are_not_known_by_name_are_not_guessed(kind: str, option: str) -> None:
    given = as_json(config_of(kind)) | {option: True}
    with pytest.raises(ModelError, match=f"sets {option}"):
        ModelShape.of(given)
    shape = on_meta(AutoConfig.for_model(**given))
    assert list(shape.weights.items()) == shapes(built(AutoConfig.for_model(**given)))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2", "mixtral", "olmoe"])
def test_the_model_on_the_meta_device_has_the_same_weights_and_sizes(name: str) -> None:
    config = config_of(name)
    meta, known = on_meta(config), ModelShape.of(as_json(config))
    assert meta.weights == known.weights
    assert meta.num_parameters == known.num_parameters
    for size in ("num_layers", "hidden_size", "num_heads", "num_key_value_heads", "head_dim", "vocab_size"):
        assert getattr(meta.sizes, size) == getattr(known.sizes, size)


@pytest.mark.parametrize(
    ("prefix", "options", "head_dim"),
    [
        # Its last layer sees all tokens, with heads of another width.
        ("Gemma4Text", {**_BASE, "head_dim": 8, "global_head_dim": 16, **_SLIDING_FIRST}, 16),
        (*CAUSAL_ONLY["gemma3n-text"], 8),  # its intermediate_size is a list
    ],
)
def test_a_model_whose_layers_differ_has_sizes_that_memory_can_be_planned_with(
    prefix: str, options: dict[str, Any], head_dim: int
) -> None:
    config = getattr(transformers, f"{prefix}Config")(**options)
    shape = on_meta(config)
    assert shape.num_parameters == built(config).num_parameters()
    sizes = shape.sizes
    assert (sizes.head_dim, sizes.num_heads, sizes.num_key_value_heads) == (
        head_dim,
        options["num_attention_heads"],
        options["num_key_value_heads"],
    )
    assert sizes.intermediate_size == options["intermediate_size"]
    memory = predict(Setup("sft"), shape, [GivenLengths(6, (4, 2), 6)])
    assert memory.peak > 16 * shape.num_parameters  # weights, gradients and two moments


def test_the_answer_says_where_the_number_of_parameters_is_from(tmp_path: Path) -> None:
    config_of("llama").save_pretrained(tmp_path / "known")
    transformers.PhiConfig(**{**_BASE}).save_pretrained(tmp_path / "other")
    assert shape_of(tmp_path / "known")[1] == "arithmetic over config.json"
    shape, source = shape_of(tmp_path / "other")
    assert source == "transformers' model on the meta device"
    assert shape.num_parameters == built(transformers.PhiConfig(**_BASE)).num_parameters()
