"""Rows in flight: which prompts stand together, and what a token waits for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from assent.rollouts import decoding, torch_sampler
from assent.rollouts.sampler import SamplingParams
from tests.support.rollouts import KEY, Waits, same, sampler


def test_prompts_of_unlike_lengths_are_cohorts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = decoding._alike(np.array([9, 9, 8, 2, 2, 1, 7]), cost=5.0)
    assert [part.tolist() for part in parts] == [[9, 9, 8], [2, 2, 1], [7]]
    assert len(decoding._alike(np.array([9, 9, 8, 2, 2, 1, 7]), cost=8.0)) == 1  # 3 · 9 + 4 · 7 saves just that of 63
    params = SamplingParams(max_new_tokens=6)
    prompts = [prompt for n in (20, 19, 3, 2, 2) for prompt in [tuple(range(3, 3 + n))] * 2]
    together = sampler().sample(prompts, num_completions=2, params=params, seed=KEY)
    counts: list[int] = []
    original = decoding.CohortDecoder.step

    def spy(self: decoding.CohortDecoder, ids: torch.Tensor) -> torch.Tensor:
        counts.append(len(self.flight.cohorts))
        return original(self, ids)

    monkeypatch.setattr(decoding.CohortDecoder, "step", spy)
    monkeypatch.setitem(decoding.COHORT_COST, "cpu", 16)
    apart = sampler()
    apart.tier = "cohorts"  # a probe would turn to another way where this one is wrong
    same(together, apart.sample(prompts, num_completions=2, params=params, seed=KEY))
    assert max(counts) > 1


@pytest.mark.parametrize("options", [{}, {"top_k": 4}, {"top_p": 0.7}, {"greedy": True}, {"stop": ("4 5",)}])
def test_no_token_makes_the_host_wait(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As many waits for 24 tokens as for 8, where what has ended is looked at less often than that."""
    made = sampler(eos_ids=())
    prompts = [(3, 4, 5), (6, 7, 8, 9)]
    made.sample(prompts, num_completions=2, params=SamplingParams(max_new_tokens=2, **options), seed=KEY)
    monkeypatch.setitem(torch_sampler.CHECK_EVERY, "cpu", 1000)
    seen = []
    for tokens in (8, 24):
        with Waits() as waits:
            made.sample(prompts, num_completions=2, params=SamplingParams(max_new_tokens=tokens, **options), seed=KEY)
        seen.append(waits.seen)
    assert seen[0] == seen[1]
    assert seen[0]["nonzero"], "the last check of what has ended"
