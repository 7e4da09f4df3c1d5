"""What a sampler is: its protocol, its options, and where its randomness comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from assent.errors import ConfigError
from assent.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn.

    max_new_tokens   longest completion, in tokens, EOS included
    temperature      logits are divided by it; also in the log-probabilities recorded
    top_k, top_p     draw from the k likeliest (0: all), from the smallest set of mass p (1: all). The log-probabilities
                     recorded are then still those of the untruncated policy: they are what a ratio or a KL needs, and
                     the truncation shows as k1 below zero
    stop             texts that end a completion; it keeps the token that completed one, and what stands there beyond it
    greedy           the likeliest token each time; takes no top_k, top_p
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    greedy: bool = False
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks: dict[str, tuple[object, bool, str]] = {
            "max_new_tokens": (self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            "temperature": (
                self.temperature,
                0 < self.temperature < float("inf"),
                "above 0; greedy=True for the limit 0",
            ),
            "top_p": (self.top_p, 0 < self.top_p <= 1, "in (0, 1]"),
            "top_k": (self.top_k, self.top_k >= 0, "at least 0"),
        }
        for name, (value, fine, expected) in checks.items():
            if not fine:
                raise ConfigError(f"{name} is out of range", got=value, expected=expected)
        if self.greedy and (self.top_k or self.top_p < 1):
            raise ConfigError("top_k and top_p have no effect with greedy", fix="leave them at 0 and 1")


@dataclass(frozen=True, slots=True)
class SeedKey:
    """Names a stream of randomness: the run's seed, what it is for, and the step (design, law 7)."""

    seed: int
    purpose: str
    step: int

    def uniforms(self, prompt: int, completion: int, count: int) -> np.ndarray:
        """(count,) float32 in [0, 1): a function of this key, the prompt's number and the completion's, nothing else.

        Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): number t is the
        same whatever `count` is.
        """
        name = repr((self.seed, self.purpose, self.step, prompt, completion)).encode()
        key = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).random(count, dtype=np.float32)


class Sampler(Protocol):
    """Draws completions from a policy."""

    version: str
    """Of the weights it samples from."""

    def load(self, named_tensors: Mapping[str, Any], version: str) -> None:
        """Takes the policy's weights (empty: they are shared already) and the version they are."""

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        *,
        num_completions: int,
        params: SamplingParams,
        seed: SeedKey,
        prompt_numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        """num_completions of each prompt, in the order of prompts.

        A completion depends on its prompt, `seed`, its prompt's number and its own (0 … num_completions - 1), not on
        its batch mates. `prompt_numbers`: the numbers, where the prompts given are a part of a larger batch (a rank's
        share); else their positions. `Rollout.prompt_index` is the position.
        """


def check_request(
    prompts: Sequence[tuple[int, ...]], num_completions: int, prompt_numbers: Sequence[int] | None
) -> Sequence[int]:
    """The prompts' numbers; ConfigError for a request that cannot be served."""
    if num_completions < 1:
        raise ConfigError("num_completions is out of range", got=num_completions, expected="at least 1")
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ConfigError(
                f"prompt {i} has no tokens: there is nothing to continue", fix="begin it with a BOS token"
            )
    if prompt_numbers is None:
        return range(len(prompts))
    if len(prompt_numbers) != len(prompts):
        raise ConfigError("prompt_numbers and prompts differ in length", got=len(prompt_numbers), expected=len(prompts))
    return prompt_numbers
