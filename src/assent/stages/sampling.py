"""A round of rollouts: sampled, cut into groups, shown and timed in the same way by every stage."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from assent.config.online import OnlineOptions
from assent.config.online_dpo import OnlineDpoConfig
from assent.data.texts import as_plain
from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
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
    """Samples completions with the learner's current weights, prompt by prompt, in the precision of its updates.

    All processes must call this together: each samples for its share of the prompts, and gets the others' completions.
    A completion's random numbers follow from its names alone (`SeedKey`), so it does not matter who draws it.
    """
    runtime = learner.runtime
    mine = range(runtime.rank, len(prompt_ids), runtime.num_processes)
    params = SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature)

    def draw() -> list[Rollout]:
        sampler.load({}, learner.fingerprint_step)  # inside: an engine of its own takes weights that are whole
        if not mine:
            return []
        with runtime.autocast():
            return sampler.sample(
                [prompt_ids[i] for i in mine],
                num_completions=num_completions,
                params=params,
                seed=seed,
                prompt_numbers=list(mine),
            )

    if runtime.num_processes == 1:
        return draw()
    runtime.begins(f"sampling {len(mine) * num_completions} completions")
    before = sampler.flops
    return _put_together(runtime, sampler, learner.whole(draw), prompt_ids, mine, before=before)


def _put_together(
    runtime: Runtime,
    sampler: Sampler,
    drawn: Sequence[Rollout],
    prompt_ids: Sequence[tuple[int, ...]],
    mine: Sequence[int],
    *,
    before: float,
) -> list[Rollout]:
    """All processes' rollouts, in the order of the prompts. The sampler counts the FLOPs of all of them."""
    runtime.meet("sampling")
    own = [
        [mine[r.prompt_index], r.completion_index, r.ids, r.logprobs, r.finish_reason, r.text, r.policy_version]
        for r in drawn
    ]
    told = runtime.from_each({"flops": sampler.flops - before, "rollouts": own})
    sampler.flops = before + sum(part["flops"] for part in told)
    rows = sorted((row for part in told for row in part["rollouts"]), key=lambda row: (row[0], row[1]))
    return [
        Rollout(
            prompt_ids=tuple(prompt_ids[prompt]),
            ids=tuple(ids),
            logprobs=tuple(logprobs),
            finish_reason=finish_reason,
            text=text,
            prompt_index=prompt,
            completion_index=k,
            policy_version=version,
        )
        for prompt, k, ids, logprobs, finish_reason, text, version in rows
    ]


def sample_round(
    config: OnlineOptions | OnlineDpoConfig,
    sampler: Sampler,
    learner: Learner,
    prompts: Sequence[TokenGroup],
    *,
    step: int,
) -> list[Rollout]:
    """Samples the completions of one round. They are a function of the weights, the seed and the step."""
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
    """Groups the `num_completions` rollouts of each prompt. `old_logprobs` are the sampler's log-probabilities.

    prompts   the round's prompts; with them, messages name a group by its row in the data (`source`)
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


def sample_row(prompt: PromptGroup, rollout: Rollout, scores: Mapping[str, object]) -> dict[str, object]:
    """A row of `samples.jsonl`."""
    text = {"prompt": as_plain(prompt.prompt), "completion": rollout.text}
    return {**text, **scores, "finish": rollout.finish_reason}


class Clock:
    """Measures the phases of one round. A lap is the time since the lap before it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Adds the time since the last lap to `phase`: generate, score, check or train."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def metrics(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Each phase's share of the round's time, and how many of the rollouts' tokens were sampled per second."""
        tokens = sum(len(rollout.ids) for rollout in rollouts)
        total = sum(self.seconds.values())
        shares = {f"time/{phase}": seconds / total for phase, seconds in self.seconds.items()}
        return {**shares, "rollout/tokens_per_second": tokens / self.seconds["generate"]}
