"""A tier is refused where rows longer than a declared window, chunk or top-k would be wrong; routers keep their say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from assent.errors import ModelError
from assent.models import kept_answers
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from assent.models.tiers import declared_length
from tests.support.architectures import assert_same_gradients, gradients, plain_logprobs, weighted

LONG = TokenGroup(
    tuple(5 + i % 60 for i in range(40)), tuple(TokenCompletion((7, 9, *range(20, 44))) for _ in range(2))
)
SMALL = {
    "vocab_size": 80,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def phimoe(**more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("phimoe", **{**SMALL, **more}))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize("window", [19, 24, 40, None])
def test_rows_longer_than_the_window_read_as_the_plain_model_does(window: int | None) -> None:
    model = phimoe(sliding_window=window)
    expected = plain_logprobs(model, [LONG])
    module = AlignmentModel(model, kind="policy")
    assert module.tier == ("padded" if window else "segments"), module.tier_reason
    found = module(pack([LONG], device="cpu"), frozenset({"logprobs"})).logprobs
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def deepseek(**more: Any) -> PreTrainedModel:
    """With enough heads in its indexer that no two keys have the same score."""
    names = ("kv_lora_rank", "q_lora_rank", "index_head_dim", "moe_intermediate_size", "index_n_heads")
    heads = ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    sizes = {**SMALL, "num_key_value_heads": 4, **dict.fromkeys(names, 16), **dict.fromkeys(heads, 8)}
    sizes |= {"n_routed_experts": sizes.pop("num_local_experts"), "n_group": 1, "topk_group": 1}
    torch.manual_seed(0)
    config = AutoConfig.for_model("deepseek_v32", first_k_dense_replace=1, **{**sizes, **more})
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize("top", [8, 24, 40])
def test_completions_that_choose_their_keys_read_as_the_plain_model_does(top: int) -> None:
    model = deepseek(index_topk=top)
    completions = [(7, 9, *range(20, 20 + n)) for n in (9, 14, 30)]
    group = TokenGroup(tuple(5 + i * i % 60 for i in range(31)), tuple(map(TokenCompletion, completions)))
    expected = plain_logprobs(model, [group])
    expected_gradients = gradients(model, weighted(expected))
    module = AlignmentModel(model, kind="policy")
    assert module.tier == "mask", module.tier_reason
    found = module(pack([group], device="cpu"), frozenset({"logprobs"})).logprobs
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert_same_gradients(gradients(model, weighted(found)), expected_gradients)


def test_a_long_window_that_our_mask_does_not_hold_refuses_the_mask_tier() -> None:
    module = AlignmentModel(phimoe(sliding_window=1000, max_position_embeddings=4096), kind="policy")
    assert module.tier == "padded"
    assert "mask: differs from the plain model" in module.tier_reason
    never = phimoe(sliding_window=1000, max_position_embeddings=1000)  # no row is longer than the window
    assert AlignmentModel(never, kind="policy").tier == "mask"


def test_without_a_small_copy_a_window_too_long_to_compare_refuses_the_mask_tier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_answers, "small_copy", lambda model, dtype: None)
    module = AlignmentModel(phimoe(sliding_window=1000, max_position_embeddings=4096), kind="policy")
    assert module.tier == "padded"
    assert "1000 tokens is declared" in module.tier_reason
    never = phimoe(sliding_window=1000, max_position_embeddings=1000)
    assert AlignmentModel(never, kind="policy").tier == "mask"


def test_a_routing_threshold_stays_and_training_mode_draws_no_expert_by_chance() -> None:
    model = phimoe(sliding_window=None, router_jitter_noise=0.3, input_jitter_noise=0.3)
    expected = plain_logprobs(model, [LONG])
    module = AlignmentModel(model, kind="policy")
    batch = pack([LONG], device="cpu")
    for mode in (False, True):
        found = module.train(mode)(batch, frozenset({"logprobs"})).logprobs
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_declared_lengths_by_hand() -> None:
    for_model = AutoConfig.for_model
    assert declared_length(for_model("llama")) is None
    assert declared_length(for_model("mistral", sliding_window=24)) == 24
    assert declared_length(for_model("qwen2", sliding_window=24, use_sliding_window=False)) is None
    assert declared_length(for_model("llama4_text", attention_chunk_size=48, floor_scale=16)) == 48


def doge(window: int) -> PreTrainedModel:
    torch.manual_seed(0)
    options = {name: value for name, value in SMALL.items() if "expert" not in name}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("doge", **options, keep_window_size=window))
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape) * (0.5 if parameter.ndim == 1 else 0.2)
    return model.eval()


def test_rows_from_which_later_tokens_change_earlier_ones_are_refused() -> None:
    """Doge chooses the keys that it keeps among all of the row, unless padding gives it a mask."""
    model = doge(20)
    ids = torch.tensor([LONG.prompt_ids + LONG.completions[0].ids])
    with torch.no_grad():
        whole, part = (model(input_ids=row, use_cache=False).logits[:, :60] for row in (ids, ids[:, :60]))
    assert float((whole - part).abs().max()) > 0.01
    with pytest.raises(ModelError, match="at most 20"):
        AlignmentModel(model, kind="policy")(pack([LONG], device="cpu"), frozenset({"logprobs"}))
    model = doge(66)  # the longest of the rows
    expected = torch.cat([plain_logprobs(model, [LONG.only([k])]) for k in range(2)])
    found = AlignmentModel(model, kind="policy")(pack([LONG], device="cpu"), frozenset({"logprobs"})).logprobs
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5)
