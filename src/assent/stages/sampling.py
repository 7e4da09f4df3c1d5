"""Samples a round of rollouts: the same way for every stage, and for held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assent.config.online import OnlineOptions
from assent.config.online_dpo import OnlineDpoConfig
from assent.engine.learner import Learner
from assent.models.batch import TokenCompletion, TokenGroup
from assent.rollouts.sampler import Sampler, SamplingParams, SeedKey
from assent.types import PromptGroup, Rollout


def sample(
    sampler: Sampler,
    learner: Learner,
    prompt_ids: Sequence[tuple[int, ...]],
    *,
    num_completions: int,
    max_new_tokens: int,
    temperature: float,
    seed: SeedKey,
) -> list[Rollout]:
    """Completions by the learner's present weights, prompt by prompt, in the arithmetic of its updates.

    All processes must call it.
    """
    sampler.load({}, learner.fingerprint_step)
    with learner.runtime.autocast():
        return learner.whole(
            sampler.sample,
            prompt_ids,
            num_completions=num_completions,
            params=SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature),
            seed=seed,
        )


def sample_round(
    config: OnlineOptions | OnlineDpoConfig,
    sampler: Sampler,
    learner: Learner,
    prompts: Sequence[TokenGroup],
    *,
    step: int,
) -> list[Rollout]:
    """The completions of one round: a function of the weights, the seed and the step."""
    return sample(
        sampler,
        learner,
        [prompt.prompt_ids for prompt in prompts],
        num_completions=config.num_completions,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=SeedKey(config.seed, "rollout", step),
    )


def to_groups(
    rollouts: Sequence[Rollout], num_completions: int, prompts: Sequence[PromptGroup] = ()
) -> list[TokenGroup]:
    """Groups of `num_completions` rollouts of one prompt, with the sampler's log-probabilities as `old_logprobs`.

    prompts   the round's: messages then name a group by its row in the data (`source`)
    """
    groups = []
    for start in range(0, len(rollouts), num_completions):
        mates = rollouts[start : start + num_completions]
        number = mates[0].prompt_index
        groups.append(
            TokenGroup(
                prompt_ids=mates[0].prompt_ids,
                completions=tuple(TokenCompletion(ids=rollout.ids) for rollout in mates),
                token={"old_logprobs": [np.asarray(rollout.logprobs, dtype=np.float32) for rollout in mates]},
                source=(prompts[number].source if prompts else "") or f"prompt {number}",
            )
        )
    return groups
