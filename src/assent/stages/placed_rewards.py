"""Where each source of reward is opened and asked, if several processes run a command together.

- a reward model, or an implicit reward: every process has it, and scores its share of the round's prompts;
- a rule: every process computes all of it;
- a function or an address: the main process is asked for the whole round, or with --reward-processes each, every
  process for its share of the prompts.

Every process gets all scores. A judge may answer the same question differently twice, so each is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from assent.config.rewards import EndpointSource, FunctionSource, ImplicitSource, ModelSource, RewardSource
from assent.engine.runtime import Runtime
from assent.errors import RunError
from assent.rewards.base import Reward, Scores, joined
from assent.rewards.loading import judges_alone, readers_of
from assent.rewards.reading import ModelReader
from assent.types import PromptGroup, Rollout, Text

Place = Callable[[RewardSource, Callable[[], Reward]], Reward]
"""Opens one source with the function that opens it in one process."""
Where = Literal["main", "each"]


def placed(runtime: Runtime, functions: Where) -> Place | None:
    """For `load_reward`. None: there is one process. `functions`: where functions and addresses are asked."""
    return None if runtime.num_processes == 1 else partial(_place, runtime, functions)


def _place(runtime: Runtime, functions: Where, source: RewardSource, load: Callable[[], Reward]) -> Reward:
    if isinstance(source, FunctionSource | EndpointSource):
        return MainReward(load, runtime) if functions == "main" else EachReward(load, runtime)
    if isinstance(source, ModelSource | ImplicitSource):
        return EachReward(load, runtime)
    return load()


class MainReward:
    """A reward that only the main process opens and calls; it sends the scores to the others.

    All processes must call `score` together, with the same arguments.
    """

    readers: Sequence[ModelReader] = ()

    def __init__(self, load: Callable[[], Reward], runtime: Runtime) -> None:
        self.runtime = runtime
        self.reward = load() if runtime.is_main else None
        facts = None if self.reward is None else {"name": self.reward.name, "alone": judges_alone(self.reward)}
        facts = runtime.from_main(facts)
        self.name: str = facts["name"]
        self.judges_alone: bool = facts["alone"]

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> Scores:
        """The reward's scores. If the reward fails, every process fails."""
        answer: dict[str, Any] = {}
        failure: Exception | None = None
        self.runtime.begins(f"asking the reward {self.name} for {len(completions)} scores")
        if self.reward is not None:
            answer, failure = _asked(self.reward, prompts, completions, groups, rollouts)
        self.runtime.meet(f"the reward {self.name}")
        answer = self.runtime.from_main(answer)
        return _taken([answer], failure)[0]


class EachReward:
    """A reward that every process opens. Each asks it about its share of the prompts, all completions of a prompt in
    one process, and gets the others' scores.

    All processes must call `score` together, with the same arguments.
    """

    def __init__(self, load: Callable[[], Reward], runtime: Runtime) -> None:
        self.runtime, self.reward = runtime, load()
        self.name, self.judges_alone = self.reward.name, judges_alone(self.reward)
        self.readers = readers_of(self.reward)

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> Scores:
        """The reward's scores, of all processes. If it fails in one process, every process fails."""
        bounds = shares(prompts, rollouts, self.runtime.num_processes)
        own = slice(bounds[self.runtime.rank], bounds[self.runtime.rank + 1])
        answer: dict[str, Any] = {"scores": []}
        failure: Exception | None = None
        before = [reader.flops for reader in self.readers]
        self.runtime.begins(f"asking the reward {self.name} for {own.stop - own.start} scores")
        if own.stop > own.start:
            mates = None if groups is None else groups[own]
            drawn = None if rollouts is None else rollouts[own]
            answer, failure = _asked(self.reward, prompts[own], completions[own], mates, drawn)
        self.runtime.meet(f"the reward {self.name}")
        self._add_flops(before)
        parts = _taken(self.runtime.from_each(answer), failure)
        asked = [part for part in parts if len(part)]
        whole = joined(asked)
        for name in set.intersection(*(set(part.statistics) for part in asked)):  # means over the completions
            whole.statistics[name] = sum(part.statistics[name] * len(part) for part in asked) / len(completions)
        return whole

    def _add_flops(self, before: Sequence[float]) -> None:
        """The ledger counts what all processes compute."""
        spent = [reader.flops - count for reader, count in zip(self.readers, before, strict=True)]
        if spent:
            wide = torch.float32 if self.runtime.device.type == "mps" else torch.float64
            total = self.runtime.sum(torch.tensor(spent, dtype=wide)).tolist()
            for reader, count, more in zip(self.readers, before, total, strict=True):
                reader.flops = count + more


def shares(prompts: Sequence[Text], rollouts: Sequence[Rollout] | None, number: int) -> list[int]:
    """Where each of `number` contiguous shares begins, and the end. Completions of one prompt stay together."""
    keys: list[Any] = list(prompts) if rollouts is None else [rollout.prompt_index for rollout in rollouts]
    starts = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]]
    parts = np.array_split(np.arange(len(starts)), number)
    begins, at = [], 0
    for part in parts:
        begins.append(starts[at] if at < len(starts) else len(keys))
        at += len(part)
    return [*begins, len(keys)]


def _asked(
    reward: Reward,
    prompts: Sequence[Text],
    completions: Sequence[str],
    groups: Sequence[PromptGroup] | None,
    rollouts: Sequence[Rollout] | None,
) -> tuple[dict[str, Any], Exception | None]:
    """The reward's answer as JSON, and its failure."""
    try:
        scores = reward.score(prompts, completions, groups=groups, rollouts=rollouts)
    except Exception as error:  # any error: the other processes must not wait for scores
        return {"failure": str(error)}, error
    answer: dict[str, Any] = {"scores": scores.given() if isinstance(scores, Scores) else list(scores)}
    if isinstance(scores, Scores):
        answer |= {"parts": scores.parts, "steps": scores.steps, "statistics": scores.statistics}
    return answer, None


def _taken(answers: Sequence[dict[str, Any]], failure: Exception | None) -> list[Scores]:
    """The answers of some processes as scores. Raises this process's own failure, or the first of another one."""
    if failure is not None:
        raise failure
    for rank, answer in enumerate(answers):
        if "failure" in answer:
            where = "the main process" if rank == 0 else f"process {rank}"
            raise RunError(f"the reward failed in {where}", got=answer["failure"])
    return [Scores(answer["scores"], **{k: v for k, v in answer.items() if k != "scores"}) for answer in answers]
