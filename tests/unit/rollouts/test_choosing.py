"""Randomness and the choice of a token; the scripted sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assent.errors import ConfigError
from assent.rollouts.choosing import choose, inverse_cdf
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.scripted import ScriptedSampler


def test_inverse_cdf_by_hand() -> None:
    """Weights 1, 0, 2, 0, 1: a quarter, a half, a quarter; a boundary belongs to what comes after it."""
    weights = torch.tensor([[1.0, 0, 2, 0, 1]]).expand(6, 5)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1.0 - 2**-24])
    assert inverse_cdf(weights, uniforms).tolist() == [0, 0, 2, 2, 4, 4]


@pytest.mark.parametrize("size", [1, 2, 37, 8192, 50257])
def test_inverse_cdf_never_draws_what_has_no_weight(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    weights = torch.rand(200, size, generator=generator) * (torch.rand(200, size, generator=generator) > 0.7)
    weights[:, size // 2] += 1e-3
    uniforms = torch.rand(200, generator=generator)
    uniforms[:50], uniforms[50:100] = 0.0, 1.0 - 2**-24
    drawn = inverse_cdf(weights, uniforms)
    assert (weights.gather(1, drawn[:, None]) > 0).all()
    running = weights.double().cumsum(1)
    share = running / running[:, -1:]
    above = share.gather(1, drawn[:, None]).squeeze(1)
    below = above - (weights.double() / running[:, -1:]).gather(1, drawn[:, None]).squeeze(1)
    assert (uniforms < above + 1e-5).all()
    assert (uniforms > below - 1e-5).all()


def test_choose_gives_the_log_probability_of_what_it_chose() -> None:
    logits = torch.randn(64, 301) * 5
    for params in (SamplingParams(max_new_tokens=1, temperature=0.5), SamplingParams(max_new_tokens=1, greedy=True)):
        ids, logprobs = choose(logits, torch.rand(64), params)
        expected = (logits / params.temperature).log_softmax(-1).gather(1, ids[:, None]).squeeze(1)
        torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
        if params.greedy:
            assert torch.equal(ids, logits.argmax(-1))


def test_a_nucleus_is_of_what_top_k_left() -> None:
    """0.4, 0.3, 0.2, 0.1: of the first two alone, the first holds more than half."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().expand(3, 4)
    params = SamplingParams(max_new_tokens=1, top_k=2, top_p=0.5)
    assert choose(logits, torch.tensor([0.0, 0.7, 0.999]), params)[0].tolist() == [0, 0, 0]


def test_uniforms_are_a_function_of_their_key() -> None:
    key = SeedKey(3, "rollout", 5)
    first = key.uniforms(7, 1, 40)
    assert first.dtype == np.float32
    assert np.array_equal(first[:10], key.uniforms(7, 1, 10))
    others = [
        SeedKey(4, "rollout", 5).uniforms(7, 1, 40),
        SeedKey(3, "eval", 5).uniforms(7, 1, 40),
        SeedKey(3, "rollout", 6).uniforms(7, 1, 40),
        key.uniforms(8, 1, 40),
        key.uniforms(7, 2, 40),
    ]
    assert not any((first == other).any() for other in others)
    many = np.stack([key.uniforms(i, 0, 50) for i in range(400)])
    assert abs(many.mean() - 0.5) < 4 * 12**-0.5 / many.size**0.5
    assert abs(np.corrcoef(many[:-1].ravel(), many[1:].ravel())[0, 1]) < 4 / many.size**0.5


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1},
     {"max_new_tokens": 0}, {"greedy": True, "top_k": 5}],
)  # fmt: skip
def test_params_out_of_range(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        SamplingParams(**{"max_new_tokens": 4, **wrong})


def test_scripted_sampler_cuts_as_a_real_one() -> None:
    sampler = ScriptedSampler(
        lambda prompt, k, seed: [(prompt[0] + k, -0.5), (2, -0.1), (9, -9.0)],
        eos_ids={2},
        decode=lambda ids: " ".join(map(str, ids)),
    )
    sampler.load({}, "v7")
    params = SamplingParams(max_new_tokens=5)
    rollouts = sampler.sample([(10,), (20,)], num_completions=2, params=params, seed=SeedKey(0, "x", 0))
    assert [r.ids for r in rollouts] == [(10, 2), (11, 2), (20, 2), (21, 2)]
    assert [(r.prompt_index, r.completion_index) for r in rollouts] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert rollouts[0].logprobs == (-0.5, -0.1)
    assert (rollouts[0].finish_reason, rollouts[0].text, rollouts[0].policy_version) == ("stop", "10", "v7")
    cut = sampler.sample([(10,)], num_completions=1, params=SamplingParams(max_new_tokens=1), seed=SeedKey(0, "x", 0))
    assert (cut[0].ids, cut[0].finish_reason) == ((10,), "length")
    assert sampler.requests[1]["params"].max_new_tokens == 1
