"""The sampler's protocol, its options, and the source of its randomness."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from assent.errors import ConfigError, NonFiniteError
from assent.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn.

    max_new_tokens   longest completion, in tokens, EOS included
    temperature      divides the logits, in the recorded log-probabilities too
    top_k, top_p     draw from the k likeliest tokens (0: all), from the smallest set of mass p (1: all). The recorded
                     log-probabilities are still those of the untruncated policy, because a ratio or a KL needs them;
                     truncation shows as a k1 below zero
    stop             texts that end a completion; the token that completes one is kept whole
    greedy           always the likeliest token; top_k and top_p must not be given
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
                "above 0; for the limit 0 use greedy=True",
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
    """Names a stream of random numbers: the run's seed, its purpose, and the step (law 7)."""

    seed: int
    purpose: str
    step: int

    def uniforms(self, prompt: int, completion: int, count: int) -> np.ndarray:
        """(count,) float32 in [0, 1): a function of this key, the prompt's number and the completion's number only.

        Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so number t does
        not depend on `count`.
        """
        name = repr((self.seed, self.purpose, self.step, prompt, completion)).encode()
        key = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).random(count, dtype=np.float32)


class Sampler(Protocol):
    """Draws completions from a policy."""

    version: str
    """The version of the weights that it samples from."""
    flops: float
    """Model FLOPs of all samples so far."""

    def load(self, named_tensors: Mapping[str, Any], version: str) -> None:
        """Takes the policy's weights (empty: the sampler already shares them) and their version."""

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        *,
        num_completions: int,
        params: SamplingParams,
        seed: SeedKey,
        prompt_numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        """num_completions of each prompt, in the order of the prompts.

        A completion depends on its prompt, `seed`, its prompt's number and its own number (0 … num_completions - 1),
        not on its batch mates. `prompt_numbers` are the prompts' numbers if they are part of a larger batch (a rank's
        share); None: their positions. `Rollout.prompt_index` is the position.
        """


def check_request(
    prompts: Sequence[tuple[int, ...]], num_completions: int, prompt_numbers: Sequence[int] | None
) -> Sequence[int]:
    """The prompts' numbers. Raises ConfigError for an impossible request."""
    if num_completions < 1:
        raise ConfigError("num_completions is out of range", got=num_completions, expected="at least 1")
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ConfigError(
                f"prompt {i} has no tokens, so there is nothing to continue", fix="begin it with a BOS token"
            )
    if prompt_numbers is None:
        return range(len(prompts))
    if len(prompt_numbers) != len(prompts):
        raise ConfigError("prompt_numbers and prompts differ in length", got=len(prompt_numbers), expected=len(prompts))
    return prompt_numbers


def to_rollouts(
    rows: Sequence[tuple[int, int]],
    prompts: Sequence[tuple[int, ...]],
    ids: Sequence[tuple[int, ...]],
    logprobs: Sequence[Sequence[float]],
    *,
    ended: Sequence[bool],
    tokenizer: Any,
    version: str,
) -> list[Rollout]:
    """One rollout for each of `rows` (prompt, completion), from its ids, their log-probabilities and whether it ended.

    Raises NonFiniteError for a log-probability that is not finite.
    """
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    rollouts = []
    for (prompt, k), own, numbers, text, has_end in zip(rows, ids, logprobs, texts, ended, strict=True):
        if not np.isfinite(numbers).all():
            raise NonFiniteError(
                f"the policy returned a non-finite log-probability while sampling completion {k} of prompt {prompt}",
                fix="the weights or the activations have overflowed: look at grad_norm of the last updates",
            )
        rollouts.append(
            Rollout(
                prompt_ids=tuple(prompts[prompt]),
                ids=own,
                logprobs=tuple(numbers),
                finish_reason="stop" if has_end else "length",
                text=text,
                prompt_index=prompt,
                completion_index=k,
                policy_version=version,
            )
        )
    return rollouts
