"""VllmSampler against TorchSampler: the same completions, the same log-probabilities, the weights of the last load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from assent.errors import ConfigError, ModelError
from assent.models.saving import folder_weights
from assent.rollouts import vllm_engine, vllm_sampler
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.torch_sampler import TorchSampler
from assent.rollouts.vllm_sampler import VllmSampler
from assent.types import Rollout
from tests.support.rollouts import IdTokenizer, sharp_llama

pytestmark = pytest.mark.skipif(not vllm_engine.is_installed(), reason="vLLM is not installed (extra vllm)")

PROMPTS = [(3, 4, 5), (6, 7, 8, 9, 10, 11, 12), (5,), (3, 4, 5, 20, 21), tuple(range(3, 30)) * 5]
KEY = SeedKey(0, "rollout", 0)


def model_with(**more: Any) -> Any:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0}
    return sharp_llama(vocab_size=64, num_key_value_heads=1, max_position_embeddings=256, **sizes, **ends, **more)


def vllm_of(model: Any, **more: Any) -> VllmSampler:
    return VllmSampler(model, IdTokenizer(), eos_ids=(2,), dtype="float32", max_length=256, **more)


@pytest.fixture(scope="module")
def policy() -> Any:
    return model_with(tie_word_embeddings=False)


@pytest.fixture(scope="module")
def sampler(policy: Any) -> Iterator[VllmSampler]:
    yield vllm_of(policy, weights=lambda: folder_weights(policy))
    vllm_engine.stop()


def drawn(sampler: Any, params: SamplingParams, **more: Any) -> list[Rollout]:
    return sampler.sample(PROMPTS, num_completions=3, params=params, seed=KEY, **more)


def of_torch(model: Any, params: SamplingParams, **more: Any) -> list[Rollout]:
    made = TorchSampler(model, IdTokenizer(), eos_ids=(2,))
    made.load({}, "torch")
    return drawn(made, params, **more)


def same(a: list[Rollout], b: list[Rollout]) -> bool:
    """Equal in every field but the version's name; log-probabilities to rounding."""
    assert [(r.prompt_index, r.completion_index) for r in a] == [(r.prompt_index, r.completion_index) for r in b]
    if [(r.prompt_ids, r.ids, r.finish_reason, r.text) for r in a] != [
        (r.prompt_ids, r.ids, r.finish_reason, r.text) for r in b
    ]:
        return False
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
    return True


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_new_tokens=24),
        SamplingParams(max_new_tokens=24, temperature=0.7),
        SamplingParams(max_new_tokens=24, temperature=1.3, top_k=7, top_p=0.9),
        SamplingParams(max_new_tokens=24, greedy=True),
    ],
    ids=["plain", "tempered", "truncated", "greedy"],
)
def test_it_draws_what_the_torch_sampler_draws(sampler: VllmSampler, policy: Any, params: SamplingParams) -> None:
    sampler.load({}, "same")
    rollouts = drawn(sampler, params)
    assert same(rollouts, of_torch(policy, params))
    assert {r.policy_version for r in rollouts} == {"same"}
    if not params.greedy:
        assert {r.finish_reason for r in rollouts} == {"stop", "length"}


def test_numbers_of_prompts_name_their_random_numbers(sampler: VllmSampler, policy: Any) -> None:
    sampler.load({}, "same")
    params = SamplingParams(max_new_tokens=12)
    there = drawn(sampler, params, prompt_numbers=[7, 8, 9, 10, 11])
    assert same(there, of_torch(policy, params, prompt_numbers=[7, 8, 9, 10, 11]))
    assert not same(there, drawn(sampler, params))


def test_weights_are_those_of_the_last_load_and_no_prompt_is_remembered_from_before(
    sampler: VllmSampler, policy: Any
) -> None:
    """The last prompt fills a block of the cache, which the engine would find again if it kept it."""
    params = SamplingParams(max_new_tokens=12)
    sampler.load({}, "before")
    before = drawn(sampler, params)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    after = of_torch(policy, params)
    assert not same(before, after)
    assert same(drawn(sampler, params), before), "the weights that it was handed are its own"
    sampler.load({}, "before")
    assert same(drawn(sampler, params), before), "a version that it has is not read again"
    sampler.load({}, "after")
    assert same(drawn(sampler, params), after)


def test_flops_are_those_of_the_torch_sampler(sampler: VllmSampler, policy: Any) -> None:
    sampler.load({}, "flops")
    before = sampler.flops
    params = SamplingParams(max_new_tokens=6)
    drawn(sampler, params)
    other = TorchSampler(policy, IdTokenizer(), eos_ids=(2,))
    other.load({}, "torch")
    drawn(other, params)
    assert sampler.flops - before == other.flops > 0


def test_what_does_not_fit_or_is_not_loaded_is_refused(sampler: VllmSampler) -> None:
    with pytest.raises(ConfigError, match="do not fit max_length"):
        drawn(sampler, SamplingParams(max_new_tokens=200))
    with pytest.raises(ConfigError, match="version of the weights is empty"):
        sampler.load({}, "")
    weights = sampler.weights() if sampler.weights else {}
    with pytest.raises(ModelError, match="did not take"):
        sampler.load({name: weights[name] for name in weights if "layers.1.mlp" not in name}, "a part")


def test_the_process_keeps_its_threads(sampler: VllmSampler) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)
    assert torch.is_grad_enabled()


def test_the_next_engine_closes_this_one_and_a_small_cache_makes_completions_wait(sampler: VllmSampler) -> None:
    """Tied embeddings; room for one row of max_length, so rows wait, and are dropped and read again."""
    tied = model_with(tie_word_embeddings=True)
    small = vllm_of(tied, max_batch_tokens=1)
    with pytest.raises(ConfigError, match="was closed"):
        drawn(sampler, SamplingParams(max_new_tokens=2))
    with pytest.raises(ConfigError, match="no weights"):
        drawn(small, SamplingParams(max_new_tokens=2))
    small.load(folder_weights(tied), "once")
    params = SamplingParams(max_new_tokens=60)
    assert same(drawn(small, params), of_torch(tied, params))
    with torch.no_grad():
        for parameter in tied.parameters():
            parameter.mul_(0.9)
    small.load(folder_weights(tied), "twice")
    assert same(drawn(small, params), of_torch(tied, params))


def test_what_vllm_cannot_run_is_refused_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_sampler, "_cache_bytes", lambda *_: 1)
    with pytest.raises(ModelError, match=r"vLLM cannot run this model: .*[Mm]emory"):
        vllm_of(model_with(tie_word_embeddings=True))
    assert torch.set_num_threads.__module__ != "vllm.v1.worker.cpu_worker"
