"""Blockwise best-of-n: run over everything that a sampler could draw in the micro-world, against enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from assent.inference.best_of_n import best_of_n_distribution, best_of_n_kl_bound
from assent.inference.blocks import best_of_blocks
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.scripted import ScriptedSampler
from assent.sandbox.microworld import MicroWorld
from assent.types import Rollout

KEY = SeedKey(3, "sample", 10)
START = 9
"""A prompt of one token that the world does not have."""


def text(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def worth(world: MicroWorld, ids: Sequence[int]) -> float:
    """Of a completion as far as it goes, in tenths, so that ties occur."""
    return round(sum(((7 * t + 3 * place) % 5) / 5 for place, t in enumerate(ids)), 1)


def conditional(world: MicroWorld, prefix: Sequence[int]) -> np.ndarray:
    return np.exp(world.transitions[prefix[-1] if prefix else world.end])


def enumerated(world: MicroWorld, n: int) -> dict[tuple[int, ...], float]:
    """Blocks of one token: the best of n continuations of each prefix, tie for tie."""
    reached: dict[tuple[int, ...], float] = {(): 1.0}
    ended: dict[tuple[int, ...], float] = {}
    for _ in range(world.length):
        grown: dict[tuple[int, ...], float] = {}
        for prefix, chance in reached.items():
            scores = [worth(world, (*prefix, t)) for t in range(world.vocabulary)]
            for t, q in enumerate(best_of_n_distribution(conditional(world, prefix), scores, n)):
                (ended if t == world.end else grown)[(*prefix, t)] = chance * q
        reached = grown
    return {**reached, **ended}


def test_over_all_draws_it_is_the_enumerated_distribution() -> None:
    world, n = MicroWorld(vocabulary=3, length=2, seed=0), 2
    found: dict[tuple[int, ...], float] = {}
    for draws in itertools.product(range(3), repeat=world.length * n):
        chance = [1.0]

        def script(
            prompt: tuple[int, ...], k: int, seed: SeedKey, draws: Sequence[int] = draws, chance: list[float] = chance
        ) -> list[tuple[int, float]]:
            token = draws[n * (seed.step - KEY.step) + k]
            p = conditional(world, prompt[1:])[token]
            chance[0] *= p
            return [(token, math.log(p))]

        sampler = ScriptedSampler(script, eos_ids={world.end}, decode=text)
        (one,) = best_of_blocks(
            sampler, [(START,)], n=n, block_size=1, params=SamplingParams(max_new_tokens=2), seed=KEY,
            score=lambda rollouts: [worth(world, r.ids) for r in rollouts], decode=text,
        )  # fmt: skip
        unused = 3.0 ** -(n * (world.length - one.blocks))  # draws of a block that was not reached stand for all others
        found[one.rollout.ids] = found.get(one.rollout.ids, 0.0) + chance[0] * unused
        assert one.rollout.text == text(one.rollout.ids)
        assert one.sampled == n * one.blocks
    expected = enumerated(world, n)
    assert found.keys() == expected.keys()
    for ids, q in expected.items():
        assert found[ids] == pytest.approx(q, abs=1e-12)
    kl, blocks = 0.0, 0.0
    for ids, q in expected.items():
        p = math.prod(conditional(world, ids[:place])[t] for place, t in enumerate(ids))
        kl, blocks = kl + q * math.log(q / p), blocks + q * len(ids)
    assert 0 < kl <= blocks * best_of_n_kl_bound(n)


def rollout_script(prompt: tuple[int, ...], k: int, seed: SeedKey) -> list[tuple[int, float]]:
    return [(10 * (len(prompt) - 1) + k, -float(k + 1))] * 5


def test_blocks_are_joined_and_the_last_is_what_is_left() -> None:
    """max_new_tokens 5 in blocks of 2: 2, 2, 1; each continues the prompt and what was kept; scores see the whole."""
    sampler = ScriptedSampler(rollout_script, eos_ids={0}, decode=text)
    seen: list[list[Rollout]] = []

    def score(rollouts: Sequence[Rollout]) -> list[float]:
        seen.append(list(rollouts))
        return [sum(r.ids) for r in rollouts]

    a, b = best_of_blocks(
        sampler, [(START,), (START, START)], n=3, block_size=2, params=SamplingParams(max_new_tokens=5), seed=KEY,
        score=score, decode=text, prompt_numbers=[4, 7],
    )  # fmt: skip
    assert a.rollout.ids == (2, 2, 22, 22, 42)
    assert b.rollout.ids == (12, 12, 32, 32, 52)
    assert a.rollout.logprobs == (-3.0,) * 5
    assert (a.score, a.blocks, a.sampled, a.rollout.finish_reason) == (90.0, 3, 9, "length")
    assert (a.rollout.prompt_ids, b.rollout.prompt_ids, b.rollout.prompt_index) == ((START,), (START, START), 1)
    assert [len(r.ids) for r in seen[1]] == [4] * 6
    assert [request["params"].max_new_tokens for request in sampler.requests] == [2, 2, 1]
    assert [request["seed"].step for request in sampler.requests] == [10, 11, 12]


def test_one_block_is_best_of_n_and_who_has_ended_is_not_asked_again() -> None:
    def script(prompt: tuple[int, ...], k: int, seed: SeedKey) -> list[tuple[int, float]]:
        return [(0, -1.0)] if len(prompt) == 1 and k == 1 else [(5 + k, -1.0)] * 3

    numbers: list[Any] = []

    class Noting(ScriptedSampler):
        def sample(self, *args: Any, prompt_numbers: Sequence[int] | None = None, **more: Any) -> list[Rollout]:
            numbers.append(prompt_numbers)
            return super().sample(*args, prompt_numbers=prompt_numbers, **more)

    sampler = Noting(script, eos_ids={0}, decode=text)
    prompts = [(START,), (START, START)]
    a, b = best_of_blocks(
        sampler, prompts, prompt_numbers=[4, 7], n=3, block_size=2, params=SamplingParams(max_new_tokens=4), seed=KEY,
        score=lambda rollouts: [9.0 if r.ids[-1] == 0 else float(sum(r.ids)) for r in rollouts], decode=text,
        choose=lambda scores, prompt, block: scores.index(9.0) if 9.0 in scores else 0,
    )  # fmt: skip
    assert (a.rollout.ids, a.blocks, a.rollout.finish_reason) == ((0,), 1, "stop")
    assert (b.rollout.ids, b.blocks) == ((5, 5, 5, 5), 2)
    assert [request["prompts"] for request in sampler.requests] == [2, 1]
    assert numbers == [[4, 7], [7]]  # the random numbers of a prompt are its own
