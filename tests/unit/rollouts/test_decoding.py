"""Rows in flight: which prompts stand together, and what a token waits for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from assent.rollouts import decoding, torch_sampler
from assent.rollouts.sampler import SamplingParams
from tests.unit.rollouts.test_torch_sampler import KEY, sampler
from tests.unit.rollouts.test_torch_sampler import same as assert_same


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
    assert_same(together, apart.sample(prompts, num_completions=2, params=params, seed=KEY))
    assert max(counts) > 1


WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "equal"}
"""Operations of which the host needs the result, or its shape: it waits there for all that a GPU was asked."""


class Waits(TorchDispatchMode):
    """Counts operations that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITS or by_mask:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


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
