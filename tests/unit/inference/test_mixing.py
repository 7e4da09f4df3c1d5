"""Logit mixing: the optimum of another β in the micro-world, and the sampler's numbers against plain reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assent.errors import ModelError
from assent.inference.mixing import MixedSampler, mixed_logits
from assent.rollouts.decoding import DynamicDecoder
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.torch_sampler import TorchSampler
from assent.sandbox.microworld import MicroWorld
from tests.support.rollouts import IdTokenizer, sharp_llama

PROMPTS = [(3, 4, 5), (6, 7, 8, 9, 10, 11, 12)]
KEY = SeedKey(0, "sample", 0)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 3.0])
def test_the_mixture_is_the_optimum_of_beta_over_strength(strength: float) -> None:
    """One token: π_ref^(1-λ) π_β^λ / Z is the optimum of β / λ, to rounding."""
    world, beta = MicroWorld(vocabulary=8, length=1, seed=3), 0.4
    reference, policy = torch.tensor(world.reference), torch.tensor(world.optimum(beta)[0])
    mixed = mixed_logits(policy[None] + 2.0, reference[None] - 1.0, strength).log_softmax(-1)[0]  # a level is free
    expected = world.reference if strength == 0 else world.optimum(beta / strength)[0]
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_longer_completions_are_mixed_token_by_token_which_is_not_the_optimum() -> None:
    """Enumerated: what each token's mixture gives, beside the optimum. The approximation is one, and a near one."""
    world, beta, strength = MicroWorld(vocabulary=4, length=3, seed=1), 0.4, 2.0
    optimum = world.optimum(beta)[0]
    found = np.zeros(len(world.completions))
    for place in range(world.length):
        for prefix in {tuple(row[:place]) for row in world.completions}:
            if world.end in prefix:
                continue
            under = (world.completions[:, :place] == prefix).all(1)
            logits = [
                torch.tensor(
                    [
                        np.logaddexp.reduce(p[under & (world.completions[:, place] == v)])
                        for v in range(world.vocabulary)
                    ]
                )
                for p in (optimum, world.reference)
            ]
            step = mixed_logits(logits[0][None], logits[1][None], strength).log_softmax(-1)[0].numpy()
            found[under] += step[world.completions[under, place]]
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)
    target = world.optimum(beta / strength)[0]
    assert 1e-4 < world.kl(found, target) < 0.1 * world.kl(optimum, target)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_are_the_mixtures_of_plain_reads(temperature: float) -> None:
    policy, reference = sharp_llama(), sharp_llama(seed=1)
    made = MixedSampler(policy, reference, IdTokenizer(), strength=0.6, eos_ids=(2,))
    params = SamplingParams(max_new_tokens=12, temperature=temperature)
    rollouts = made.sample(PROMPTS, num_completions=20, params=params, seed=KEY)
    assert len({len(r.ids) for r in rollouts}) > 2, "rows end at different times, so some were dropped on the way"
    with torch.no_grad():
        for r in rollouts:
            row = torch.tensor([[*r.prompt_ids, *r.ids]])
            read = [m(input_ids=row).logits[0, len(r.prompt_ids) - 1 : -1].double() for m in (policy, reference)]
            mixed = (0.6 * read[0] + 0.4 * read[1]) / temperature
            expected = mixed.log_softmax(-1).gather(-1, torch.tensor(r.ids)[:, None]).squeeze(-1)
            np.testing.assert_allclose(r.logprobs, expected, atol=1e-4)
    alone = TorchSampler(policy, IdTokenizer(), eos_ids=(2,))
    assert made.flops == pytest.approx(
        2 * sum(alone.cost.sample(len(p), [len(r.ids) for r in rollouts if r.prompt_index == i])
                for i, p in enumerate(PROMPTS))
    )  # fmt: skip


def test_strength_one_is_the_policy_and_strength_zero_the_reference() -> None:
    policy, reference = sharp_llama(), sharp_llama(seed=1)
    params = SamplingParams(max_new_tokens=8)
    for strength, model in ((1.0, policy), (0.0, reference)):
        mixed = MixedSampler(policy, reference, IdTokenizer(), strength=strength, eos_ids=(2,))
        plain = TorchSampler(model, IdTokenizer(), eos_ids=(2,))
        found, expected = (s.sample(PROMPTS, num_completions=3, params=params, seed=KEY) for s in (mixed, plain))
        assert [r.ids for r in found] == [r.ids for r in expected]


def test_the_slower_way_of_decoding_rules_what_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that could take more rows in flight waits for a reference that cannot, and the numbers are the same."""
    params, prompts = SamplingParams(max_new_tokens=8), [(3, 4, 5), (6, 7), (8, 9, 10, 11), (5, 5)]

    def drawn(reference_tier: str, budget: int) -> list[tuple[int, ...]]:
        models, options = (sharp_llama(), sharp_llama(seed=1)), {"eos_ids": (2, 7, 9), "max_batch_tokens": budget}
        made = MixedSampler(*models, IdTokenizer(), strength=0.6, **options)  # type: ignore[arg-type]
        made.tier, made.reference_tier = "cohorts", reference_tier
        return [r.ids for r in made.sample(prompts, num_completions=3, params=params, seed=KEY)]

    admitted: list[int] = []
    original = DynamicDecoder.admit

    def spy(self: DynamicDecoder, *args: object) -> torch.Tensor:
        admitted.append(self.tokens)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(DynamicDecoder, "admit", spy)
    assert drawn("dynamic", 60) == drawn("cohorts", 4096)
    assert len(admitted) > 1
    assert not any(admitted), "nothing else was in flight"


def test_vocabularies_of_unequal_size_are_refused() -> None:
    small = sharp_llama(vocab_size=16)
    with pytest.raises(ModelError, match="32 and 16"):
        MixedSampler(sharp_llama(), small, IdTokenizer(), strength=0.5, eos_ids=(2,))
