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
from assent.models import host_memory, products
from assent.models.flops import Cost
from assent.models.head import chunk_size
from assent.models.module import check_prompts_fit
from assent.rollouts.choosing import choose
from assent.rollouts.decoding import DECODERS, Decoder, probe
from assent.rollouts.sampler import SamplingParams, SeedKey, check_request
from assent.rollouts.stopping import StopStrings
from assent.types import Rollout

COMPACT_BELOW = 0.7
"""Finished rows are dropped when no more than this share of a batch is alive: then copying the cache costs less."""

CHECK_EVERY = {"cpu": 1, "other": 8}
"""After so many tokens it is looked which rows have ended; elsewhere than on a CPU the host waits for the device there,
and nowhere else between tokens."""


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
    max_batch_tokens  tokens of cache in flight: prompts, each once, and rows x max_new_tokens (rows x both where the
                      model's own cache is used). Changes speed and memory, not the result (up to rounding)

    The way of decoding (`decoding.py`) is chosen by a probe at the first call; `tier` and `tier_reason` say which.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, eos_ids: Collection[int], max_batch_tokens: int = 65536
    ) -> None:
        products.install(model)
        host_memory.keep_freed(model.device)
        self.model, self.tokenizer, self.max_batch_tokens = model, tokenizer, max_batch_tokens
        self.eos_ids = frozenset(eos_ids)
        self.version = ""
        self.tier, self.tier_reason = "", "not probed yet"
        self.cost = Cost.of(model, shared=True)
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self._stops: dict[tuple[str, ...], StopStrings] = {}
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
        check_prompts_fit(self.model.config, prompts, params.max_new_tokens)
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            if not self.tier:
                self.tier, self.tier_reason = probe(self.model)
            parts = self._parts(prompts, num_completions, params.max_new_tokens)
            rows = [(part.prompt, k) for part in parts for k in range(part.first, part.first + part.count)]
            drawn = self._decode(parts, prompts, self._uniforms(rows, numbers, params, seed), params)
            rollouts = self._rollouts(rows, prompts, *(numbers.tolist() for numbers in drawn))
        finally:
            if was_training:
                self.model.train()
        in_order = iter(rollouts)
        for part in parts:
            self.flops += self.cost.sample(
                len(prompts[part.prompt]), [len(next(in_order).ids) for _ in range(part.count)]
            )
        return sorted(rollouts, key=lambda rollout: (rollout.prompt_index, rollout.completion_index))

    def _parts(self, prompts: Sequence[tuple[int, ...]], num_completions: int, room: int) -> list[_Part]:
        """Longest prompts first, so that little is padded. A prompt's completions stay together where they fit the
        budget: it is read once for all of them."""
        parts = []
        for prompt in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)):
            fits = max(1, (self.max_batch_tokens - len(prompts[prompt])) // room)
            for first in range(0, num_completions, fits):
                parts.append(_Part(prompt, first, min(fits, num_completions - first)))
        return parts

    def _fitting(self, queue: Sequence[_Part], lengths: Sequence[int], decoder: Decoder, room: int) -> int:
        """How many parts of the queue can be admitted now; at least one where nothing is in flight. Prompts that are
        admitted together are padded to the first one's length at most."""
        used, count = decoder.tokens, 0
        if used and not decoder.refills:
            return 0
        for part in queue:
            prompts_held = 1 if decoder.shares_prompts else part.count
            used += part.count * room + prompts_held * lengths[queue[0].prompt]
            if used > self.max_batch_tokens and (count or decoder.tokens):
                break
            count += 1
        return count

    def _uniforms(
        self, rows: Sequence[tuple[int, int]], numbers: Sequence[int], params: SamplingParams, seed: SeedKey
    ) -> Tensor:
        """(S, max_new_tokens) on the model's device."""
        drawn = [seed.uniforms(numbers[prompt], k, params.max_new_tokens) for prompt, k in rows]
        empty = np.zeros((0, params.max_new_tokens), dtype=np.float32)
        return torch.from_numpy(np.stack(drawn) if drawn else empty).to(self.model.device)

    def decoder(self) -> Decoder:
        """What gives rows in flight their next-token logits: here those of the model alone."""
        return DECODERS[self.tier](self.model)

    def _decode(
        self,
        parts: Sequence[_Part],
        prompts: Sequence[tuple[int, ...]],
        uniforms: Tensor,
        params: SamplingParams,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ids and log-probabilities (S, max_new_tokens) of all parts' rows, and the tokens of those that ended (S,), 0
        for the others. What stands after a row's end means nothing. Rows that ended are dropped when enough have;
        others take their room."""
        decoder, device, room = self.decoder(), uniforms.device, params.max_new_tokens
        ids = torch.zeros(uniforms.shape, dtype=torch.long, device=device)
        logprobs = torch.zeros(uniforms.shape, device=device)
        ends = torch.zeros(self.vocabulary, dtype=torch.bool, device=device)
        ends[[i for i in self.eos_ids if i < self.vocabulary]] = True
        lengths, queue = [len(prompt) for prompt in prompts], list(parts)
        # of each row in flight: its row of `ids`, the tokens it has, whether it ended, what its next is drawn from
        alive = age = torch.zeros(0, dtype=torch.long, device=device)
        finished = torch.zeros(0, dtype=torch.bool, device=device)
        stops = self._stop_strings(params.stop)
        states = stops.start.new_zeros(0, len(params.stop))
        ended_at = torch.zeros(len(ids), dtype=torch.long, device=device)  # 0: not
        read: Tensor | None = None
        check_every = CHECK_EVERY["cpu" if device.type == "cpu" else "other"]
        steps, admitted, full = 0, 0, set[int]()
        while queue or len(alive):
            count = self._fitting(queue, lengths, decoder, room)
            if count:
                now, queue = queue[:count], queue[count:]
                new = decoder.admit([prompts[part.prompt] for part in now], [part.count for part in now], room)
                read = new if read is None else torch.cat([read, new])
                alive = torch.cat([alive, torch.arange(admitted, admitted + len(new), device=device)])
                age = torch.cat([age, age.new_zeros(len(new))])
                finished = torch.cat([finished, finished.new_zeros(len(new))])
                states = torch.cat([states, stops.start.expand(len(new), -1)])
                admitted += len(new)
                full.add(steps + room)  # when these rows have all their tokens
            assert read is not None
            chosen, logprob = self._draw(decoder, read, uniforms[alive, age], params)
            ids[alive, age], logprobs[alive, age] = chosen, logprob
            steps, age = steps + 1, age + 1
            states, stopped = stops.step(states, chosen)
            now_ends = (ends[chosen] | stopped) & ~finished
            ended_at[alive] = torch.where(now_ends, age, ended_at[alive])
            finished |= now_ends
            if steps in full or steps % check_every == 0:
                keep = torch.nonzero(~finished & (age < room)).squeeze(-1)
                if steps in full or len(keep) <= COMPACT_BELOW * len(alive):
                    decoder.keep(keep)
                    alive, age, finished, chosen = alive[keep], age[keep], finished[keep], chosen[keep]
                    states = states[keep]
            read = decoder.step(chosen) if len(alive) else None
        return ids.cpu(), logprobs.cpu(), ended_at.cpu()

    def _stop_strings(self, strings: tuple[str, ...]) -> StopStrings:
        if strings not in self._stops:
            self._stops[strings] = StopStrings(
                strings, self.tokenizer, vocabulary=self.vocabulary, device=self.model.device
            )
        return self._stops[strings]

    def _draw(self, decoder: Decoder, read: Tensor, uniforms: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """Ids and log-probabilities (S,); so many rows at a time that their logits stay in a CPU's cache."""
        size = chunk_size(self.vocabulary, read.device)
        drawn = [
            choose(decoder.logits(part), numbers, params)
            for part, numbers in zip(read.split(size), uniforms.split(size), strict=True)
        ]
        return torch.cat([ids for ids, _ in drawn]), torch.cat([logprobs for _, logprobs in drawn])

    def texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Of completions' ids, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(
            completions, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def _rollouts(
        self,
        rows: Sequence[tuple[int, int]],
        prompts: Sequence[tuple[int, ...]],
        ids: Sequence[Sequence[int]],
        logprobs: Sequence[Sequence[float]],
        ended_at: Sequence[int],
    ) -> list[Rollout]:
        cut = [tuple(row[: end or None]) for row, end in zip(ids, ended_at, strict=True)]
        texts = self.texts(cut)
        rollouts = []
        for (prompt, k), row, numbers, text, end in zip(rows, cut, logprobs, texts, ended_at, strict=True):
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
                    finish_reason="stop" if end else "length",
                    text=text,
                    prompt_index=prompt,
                    completion_index=k,
                    policy_version=self.version,
                )
            )
        return rollouts
