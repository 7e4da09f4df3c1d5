"""Samples with the learner's own weights through transformers: no second copy, no second engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from assent.errors import ConfigError, NonFiniteError
from assent.models.flops import Cost
from assent.rollouts.choosing import choose
from assent.rollouts.decoding import DECODERS, probe
from assent.rollouts.sampler import SamplingParams, SeedKey, check_request
from assent.types import Rollout

COMPACT_BELOW = 0.7
"""Finished rows are dropped when no more than this share of a batch is alive: then copying the cache costs less."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Some completions of one prompt: those from `first` on, `count` of them."""

    prompt: int
    first: int
    count: int


class TorchSampler:
    """Any causal model of transformers.

    model             the policy; its weights are read where they are, so they are always the learner's newest
    tokenizer         decodes completions
    eos_ids           ids that end a completion (model's generation config and tokenizer, from the template)
    max_batch_tokens  tokens of cache in flight: rows x (prompt + max_new_tokens). Changes speed and memory, not the
                      result (up to rounding)

    The way of decoding (`decoding.py`) is chosen by a probe at the first call; `tier` and `tier_reason` say which.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, eos_ids: Collection[int], max_batch_tokens: int = 65536
    ) -> None:
        self.model, self.tokenizer, self.max_batch_tokens = model, tokenizer, max_batch_tokens
        self.eos_ids = frozenset(eos_ids)
        self.version = ""
        self.tier, self.tier_reason = "", "not probed yet"
        self.cost = Cost.of(model, shared=True)
        self.flops = 0.0
        """Model FLOPs of what was sampled so far."""

    def load(self, named_tensors: Mapping[str, Tensor], version: str) -> None:
        """Notes the version. The weights are shared: tensors that are not the model's own are refused."""
        own = dict(self.model.named_parameters())
        for name, tensor in named_tensors.items():
            if name not in own or own[name].data_ptr() != tensor.data_ptr():
                raise ConfigError(f"{name} is not a weight of the model that this sampler shares", fix="load nothing")
        if not version:
            raise ConfigError("a version of the weights needs a name", got=repr(version))
        self.version = version

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        *,
        num_completions: int,
        params: SamplingParams,
        seed: SeedKey,
        prompt_numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        """See `Sampler.sample`. ConfigError where a prompt and max_new_tokens exceed the model's context."""
        numbers = check_request(prompts, num_completions, prompt_numbers)
        self._check_context(prompts, params.max_new_tokens)
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            if not self.tier:
                self.tier, self.tier_reason = probe(self.model)
            rollouts: list[Rollout] = []
            for parts in self._batches(prompts, num_completions, params.max_new_tokens):
                rollouts += self._sample_batch(parts, prompts, numbers, params, seed)
        finally:
            if was_training:
                self.model.train()
        return sorted(rollouts, key=lambda rollout: (rollout.prompt_index, rollout.completion_index))

    def _check_context(self, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> None:
        context = getattr(self.model.config, "max_position_embeddings", None)
        longest = max((len(prompt) for prompt in prompts), default=0)
        if context is not None and longest + max_new_tokens > context:
            raise ConfigError(
                "a prompt and its completion do not fit the model's context",
                got=f"a prompt of {longest} tokens and max_new_tokens {max_new_tokens}",
                expected=f"at most {context} together",
                fix=f"lower max_new_tokens, or shorten prompts to {max(context - max_new_tokens, 0)} tokens",
            )

    def _batches(
        self, prompts: Sequence[tuple[int, ...]], num_completions: int, max_new_tokens: int
    ) -> list[list[_Part]]:
        """Parts in batches of at most max_batch_tokens, longest prompts first, so that little is padded.

        A prompt's completions stay together where they fit: it is read once for all of them.
        """
        batches: list[list[_Part]] = []
        room, width = 0, 0
        for prompt in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)):
            first = 0
            while first < num_completions:
                length = len(prompts[prompt]) + max_new_tokens
                fits_empty = max(1, self.max_batch_tokens // length)
                count = min(num_completions - first, fits_empty)
                if count > room:
                    batches.append([])
                    width = length
                    room = max(1, self.max_batch_tokens // width)
                batches[-1].append(_Part(prompt, first, count))
                room -= count
                first += count
        return batches

    def _sample_batch(
        self,
        parts: Sequence[_Part],
        prompts: Sequence[tuple[int, ...]],
        numbers: Sequence[int],
        params: SamplingParams,
        seed: SeedKey,
    ) -> list[Rollout]:
        rows = [(part.prompt, k) for part in parts for k in range(part.first, part.first + part.count)]
        drawn = np.stack([seed.uniforms(numbers[prompt], k, params.max_new_tokens) for prompt, k in rows])
        decoder = DECODERS[self.tier](self.model)
        logits = decoder.prefill(
            [prompts[part.prompt] for part in parts], [part.count for part in parts], params.max_new_tokens
        )
        ids, logprobs = self._decode(decoder, logits, torch.from_numpy(drawn).to(logits.device), params)
        rollouts = self._rollouts(rows, prompts, ids.tolist(), logprobs.tolist())
        of_part = iter(rollouts)
        for part in parts:
            lengths = [len(next(of_part).ids) for _ in range(part.count)]
            self.flops += self.cost.sample(len(prompts[part.prompt]), lengths)
        return rollouts

    def _decode(self, decoder: Any, logits: Tensor, uniforms: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """ids and log-probabilities (S, max_new_tokens); what stands after a row's EOS means nothing."""
        rows, device = logits.shape[0], logits.device
        ids = torch.zeros(rows, params.max_new_tokens, dtype=torch.long, device=device)
        logprobs = torch.zeros(rows, params.max_new_tokens, device=device)
        ends = torch.zeros(logits.shape[1], dtype=torch.bool, device=device)
        ends[[i for i in self.eos_ids if i < logits.shape[1]]] = True
        alive = torch.arange(rows, device=device)  # the row of `ids` that each row in flight belongs to
        finished = torch.zeros(rows, dtype=torch.bool, device=device)
        check_every = 1 if device.type == "cpu" else 8  # a check is a synchronisation with the device
        for t in range(params.max_new_tokens):
            chosen, logprob = choose(logits, uniforms[alive, t], params)
            ids[alive, t], logprobs[alive, t] = chosen, logprob
            if t == params.max_new_tokens - 1:
                break
            finished |= ends[chosen]
            if t % check_every == check_every - 1:
                left = len(alive) - int(finished.sum())
                if left == 0:
                    break
                if left <= COMPACT_BELOW * len(alive):
                    keep = torch.nonzero(~finished).squeeze(-1)
                    decoder.keep(keep)
                    alive, finished, chosen = alive[keep], finished[keep], chosen[keep]
            logits = decoder.step(chosen)
        return ids.cpu(), logprobs.cpu()

    def _rollouts(
        self,
        rows: Sequence[tuple[int, int]],
        prompts: Sequence[tuple[int, ...]],
        ids: Sequence[Sequence[int]],
        logprobs: Sequence[Sequence[float]],
    ) -> list[Rollout]:
        lengths = [next((t + 1 for t, i in enumerate(row) if i in self.eos_ids), len(row)) for row in ids]
        cut = [tuple(row[:length]) for row, length in zip(ids, lengths, strict=True)]
        texts = self.tokenizer.batch_decode(cut, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        rollouts = []
        for (prompt, k), row, numbers, text in zip(rows, cut, logprobs, texts, strict=True):
            values = tuple(numbers[: len(row)])
            if not np.isfinite(values).all():
                raise NonFiniteError(
                    f"the policy gave a non-finite log-probability while sampling completion {k} of prompt {prompt}",
                    fix="the weights or the activations have overflowed: look at the last updates' grad_norm",
                )
            rollouts.append(
                Rollout(
                    prompt_ids=tuple(prompts[prompt]),
                    ids=row,
                    logprobs=values,
                    finish_reason="stop" if row[-1] in self.eos_ids else "length",
                    text=text,
                    prompt_index=prompt,
                    completion_index=k,
                    policy_version=self.version,
                )
            )
        return rollouts
