"""Reward-guided decoding by blocks: samples n continuations of one block's length, keeps the best, and repeats.

Blockwise best-of-K (Mudgal et al., arXiv:2310.17022, section 3.2). The reward scores unfinished completions, so it must
make sense of them. Each block is a best-of-n of continuations of the prefix, so by the chain rule KL(result || policy)
is at most the mean number of blocks times log n − (n − 1)/n.

Legend: P prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from assent.inference.best_of_n import best_index
from assent.rollouts.sampler import Sampler, SamplingParams, SeedKey
from assent.types import Rollout

Choice = Callable[[Sequence[float], int, int], int]
"""(scores of a prompt's n continuations, number of the prompt, number of the block) -> the one to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guided:
    """One prompt's completion, its score, its number of blocks, and the number of continuations sampled for it."""

    rollout: Rollout
    score: float
    blocks: int
    sampled: int


def _highest(scores: Sequence[float], prompt: int, block: int) -> int:
    return best_index(scores)


def best_of_blocks(
    sampler: Sampler,
    prompts: Sequence[tuple[int, ...]],
    *,
    n: int,
    block_size: int,
    params: SamplingParams,
    seed: SeedKey,
    score: Callable[[Sequence[Rollout]], Sequence[float]],
    decode: Callable[[Sequence[int]], str],
    choose: Choice = _highest,
    prompt_numbers: Sequence[int] | None = None,
) -> list[Guided]:
    """One completion for each prompt, in their order.

    params   of sampling; `max_new_tokens` is for the whole completion, so the last block may be shorter
    seed     block b is drawn with the step `seed.step + b`
    score    a number for each unfinished completion; its `prompt_index` counts over `prompts`
    decode   the text of a completion's ids, without control tokens
    """
    numbers = list(range(len(prompts)) if prompt_numbers is None else prompt_numbers)
    kept: dict[int, Guided] = {}
    going, block = list(range(len(prompts))), 0
    while going:
        room = min(block_size, params.max_new_tokens - block * block_size)
        drawn = sampler.sample(
            [(*prompts[i], *(kept[i].rollout.ids if block else ())) for i in going],
            num_completions=n,
            params=replace(params, max_new_tokens=room),
            seed=replace(seed, step=seed.step + block),
            prompt_numbers=[numbers[i] for i in going],
        )
        rollouts = [_longer(r, kept.get(going[r.prompt_index]), going, prompts, decode) for r in drawn]
        scores = list(score(rollouts))
        for place, i in enumerate(going):
            own = scores[place * n : (place + 1) * n]
            best = place * n + choose(own, numbers[i], block)
            kept[i] = Guided(
                rollout=rollouts[best],
                score=scores[best],
                blocks=block + 1,
                sampled=n + (kept[i].sampled if block else 0),
            )
        block += 1
        going = [i for i in going if kept[i].rollout.finish_reason == "length"]
        if block * block_size >= params.max_new_tokens:
            break
    return [kept[i] for i in range(len(prompts))]


def _longer(
    drawn: Rollout,
    before: Guided | None,
    going: Sequence[int],
    prompts: Sequence[tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
) -> Rollout:
    """The completion so far, with the block that was sampled after it."""
    i = going[drawn.prompt_index]
    ids, logprobs = (before.rollout.ids, before.rollout.logprobs) if before is not None else ((), ())
    whole = ids + drawn.ids
    return replace(
        drawn,
        prompt_ids=tuple(prompts[i]),
        prompt_index=i,
        ids=whole,
        logprobs=logprobs + drawn.logprobs,
        text=decode(whole),
    )
