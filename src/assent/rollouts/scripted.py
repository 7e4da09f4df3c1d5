"""A sampler with given completions, for tests of the code around a sampler."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from assent.rollouts.sampler import SamplingParams, SeedKey, check_request
from assent.types import Rollout

Script = Callable[[tuple[int, ...], int, SeedKey], Sequence[tuple[int, float]]]
"""(prompt ids, completion number, seed) -> (id, log-probability) of each token, with EOS if the completion ends."""


class ScriptedSampler:
    """Returns a function's completions, cut at max_new_tokens and after the first EOS as a real sampler would."""

    def __init__(self, script: Script, *, eos_ids: Collection[int], decode: Callable[[Sequence[int]], str]) -> None:
        self.script, self.eos_ids, self.decode = script, frozenset(eos_ids), decode
        self.version = ""
        self.requests: list[dict[str, Any]] = []
        """The requests, one for each call."""

    def load(self, named_tensors: Mapping[str, Any], version: str) -> None:
        self.version = version

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        *,
        num_completions: int,
        params: SamplingParams,
        seed: SeedKey,
        prompt_numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        check_request(prompts, num_completions, prompt_numbers)
        self.requests.append({"prompts": len(prompts), "params": params, "seed": seed})
        return [
            self._rollout(prompt, index, k, params, seed)
            for index, prompt in enumerate(prompts)
            for k in range(num_completions)
        ]

    def _rollout(self, prompt: tuple[int, ...], index: int, k: int, params: SamplingParams, seed: SeedKey) -> Rollout:
        tokens = list(self.script(prompt, k, seed))[: params.max_new_tokens]
        end = next((t + 1 for t, (token, _) in enumerate(tokens) if token in self.eos_ids), len(tokens))
        ids = tuple(token for token, _ in tokens[:end])
        return Rollout(
            prompt_ids=prompt,
            ids=ids,
            logprobs=tuple(logprob for _, logprob in tokens[:end]),
            finish_reason="stop" if ids[-1] in self.eos_ids else "length",
            text=self.decode([i for i in ids if i not in self.eos_ids]),
            prompt_index=index,
            completion_index=k,
            policy_version=self.version,
        )
