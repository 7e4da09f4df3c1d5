"""Samples with the learner's own weights through transformers, without a second copy or a second engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from assent.errors import ConfigError
from assent.models import host_memory, products
from assent.models.at_once import MOST_WORKERS, at_once, dealt
from assent.models.head import chunk_size
from assent.models.module import check_prompts_fit
from assent.models.shape import Cost
from assent.rollouts.choosing import choose
from assent.rollouts.decoding import DECODERS, Decoder, probe
from assent.rollouts.sampler import SamplingParams, SeedKey, check_request, to_rollouts
from assent.rollouts.stopping import StopStrings
from assent.runs.progress import Progress, Silent
from assent.types import Rollout

COMPACT_BELOW = 0.7
"""Finished rows are dropped when at most this share of a batch is alive: copying the cache then costs less."""

CHECK_EVERY = {"cpu": 1, "other": 8}
"""Ended rows are looked for after this many tokens. Except on a CPU, this is the only point between tokens at which the
host waits for the device."""


FEWEST_ROWS = 16
"""Rows of one decoder beside another: with fewer, reading the weights takes longer than the products."""

Drawn = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some completions of one prompt: `count` of them, from number `first` on."""

    prompt: int
    first: int
    count: int


def _rows(parts: Sequence[_Part]) -> list[tuple[int, int]]:
    """Prompt and number of each completion."""
    return [(part.prompt, k) for part in parts for k in range(part.first, part.first + part.count)]


class TorchSampler:
    """Samples from any causal model of transformers.

    model             the policy; its weights are read in place, so they are always the learner's newest
    tokenizer         decodes completions
    eos_ids           ids that end a completion (from the model's generation config and tokenizer, by the template)
    max_batch_tokens  tokens of cache in flight: each prompt once, plus rows x max_new_tokens (with the model's own
                      cache, rows x both). Affects speed and memory, not the result (up to rounding)

    A probe at the first call chooses how to decode (`decoding.py`); `tier` and `tier_reason` say what it chose.
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
        """Model FLOPs of all samples so far."""
        self.progress: Progress = Silent()
        """Where a long sampling shows how far it is."""

    def load(self, named_tensors: Mapping[str, Tensor], version: str) -> None:
        """Sets the version. The weights are shared, so tensors that are not the model's own are refused."""
        own = dict(self.model.named_parameters())
        for name, tensor in named_tensors.items():
            if name not in own or own[name].data_ptr() != tensor.data_ptr():
                raise ConfigError(f"{name} is not a weight of the model that this sampler shares", fix="load nothing")
        if not version:
            raise ConfigError("the version of the weights is empty", got=repr(version))
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
        """See `Sampler.sample`. Raises ConfigError if a prompt and max_new_tokens exceed the model's context."""
        numbers = check_request(prompts, num_completions, prompt_numbers)
        check_prompts_fit(self.model.config, prompts, params.max_new_tokens)
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            if not self.tier:
                self.tier, self.tier_reason = probe(self.model)
            number = self._num_hands(len(prompts) * num_completions)
            most = self.max_batch_tokens // number
            parts = self._parts(prompts, num_completions, params.max_new_tokens, most=most)
            sizes = [len(prompts[part.prompt]) + part.count * params.max_new_tokens for part in parts]
            hands = [[parts[i] for i in sorted(hand)] for hand in dealt(sizes, number)] if number > 1 else [parts]
            parts = [part for hand in hands for part in hand]
            rows = _rows(parts)

            self._stop_strings(params.stop)  # made once, and then read by all
            with self.progress.task("tokens, at most", total=len(rows) * params.max_new_tokens, brief=True) as task:

                def decode(hand: Sequence[_Part]) -> Iterator[Drawn]:
                    uniforms = self._uniforms(_rows(hand), numbers, params, seed)
                    yield self._decode(hand, prompts, uniforms, params, most=most, told=task.advance)

                work = [decode(hand) for hand in hands]
                found = at_once(work) if len(work) > 1 else [[*work[0]]]
            drawn = zip(*(own for one in found for own in one), strict=True)
            all_ids, all_logprobs, ended_at = (torch.cat(tensors).tolist() for tensors in drawn)
            ids = [tuple(row[: end or None]) for row, end in zip(all_ids, ended_at, strict=True)]
            rollouts = to_rollouts(
                rows,
                prompts,
                ids,
                [row[: len(own)] for row, own in zip(all_logprobs, ids, strict=True)],
                ended=[end > 0 for end in ended_at],
                tokenizer=self.tokenizer,
                version=self.version,
            )
        finally:
            if was_training:
                self.model.train()
        in_order = iter(rollouts)
        for part in parts:
            self.flops += self.cost.sample(
                len(prompts[part.prompt]), [len(next(in_order).ids) for _ in range(part.count)]
            )
        return sorted(rollouts, key=lambda rollout: (rollout.prompt_index, rollout.completion_index))

    def _parts(self, prompts: Sequence[tuple[int, ...]], num_completions: int, room: int, *, most: int) -> list[_Part]:
        """The longest prompts first, so that there is little padding. A prompt's completions stay together if they fit
        the budget, so that the prompt is read once."""
        parts = []
        for prompt in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)):
            fits = max(1, (most - len(prompts[prompt])) // room)
            for first in range(0, num_completions, fits):
                parts.append(_Part(prompt, first, min(fits, num_completions - first)))
        return parts

    def _num_hands(self, rows: int) -> int:
        """How many decoders work at the same time on a CPU, each with its share of the rows. Each reads the weights for
        every token, so each gets enough rows. Another number of threads changes results by rounding."""
        if self.tier != "cohorts" or self.model.device.type != "cpu":
            return 1
        return max(1, min(MOST_WORKERS, torch.get_num_threads(), rows // FEWEST_ROWS))

    def _fitting(
        self, queue: Sequence[_Part], lengths: Sequence[int], decoder: Decoder, room: int, *, most: int
    ) -> int:
        """How many parts of the queue can be admitted now, at least one if nothing is in flight. Prompts that are
        admitted together are padded at most to the first one's length."""
        used, count = decoder.tokens, 0
        if used and not decoder.refills:
            return 0
        for part in queue:
            prompts_held = 1 if decoder.shares_prompts else part.count
            used += part.count * room + prompts_held * lengths[queue[0].prompt]
            if used > most and (count or decoder.tokens):
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
        """The decoder, which computes next-token logits for rows in flight: here the model's own logits."""
        return DECODERS[self.tier](self.model)

    def _decode(
        self,
        parts: Sequence[_Part],
        prompts: Sequence[tuple[int, ...]],
        uniforms: Tensor,
        params: SamplingParams,
        *,
        most: int,
        told: Callable[[int], None],
    ) -> Drawn:
        """ids and log-probabilities (S, max_new_tokens) of all parts' rows, and the number of tokens (S,) of each row
        that ended, 0 for the others. Entries after a row's end mean nothing. Ended rows are dropped when there are
        enough of them, and others take their room. `told` hears of each row's tokens, and as it is dropped, of those
        that it will not have."""
        decoder, device, room = self.decoder(), uniforms.device, params.max_new_tokens
        ids = torch.zeros(uniforms.shape, dtype=torch.long, device=device)
        logprobs = torch.zeros(uniforms.shape, device=device)
        ends = torch.zeros(self.vocabulary, dtype=torch.bool, device=device)
        ends[[i for i in self.eos_ids if i < self.vocabulary]] = True
        lengths, queue = [len(prompt) for prompt in prompts], list(parts)
        # for each row in flight: its row of `ids`, the tokens it has, whether it has ended; `read`: see `Decoder`
        alive = age = torch.zeros(0, dtype=torch.long, device=device)
        finished = torch.zeros(0, dtype=torch.bool, device=device)
        stops = self._stop_strings(params.stop)
        states = stops.start.new_zeros(0, len(params.stop))
        ended_at = torch.zeros(len(ids), dtype=torch.long, device=device)  # 0: not ended
        read: Tensor | None = None
        check_every = CHECK_EVERY["cpu" if device.type == "cpu" else "other"]
        steps, admitted, full = 0, 0, set[int]()
        while queue or len(alive):
            count = self._fitting(queue, lengths, decoder, room, most=most)
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
            told(len(alive))
            states, stopped = stops.step(states, chosen)
            now_ends = (ends[chosen] | stopped) & ~finished
            ended_at[alive] = torch.where(now_ends, age, ended_at[alive])
            finished |= now_ends
            if steps in full or steps % check_every == 0:
                keep = torch.nonzero(~finished & (age < room)).squeeze(-1)
                if steps in full or len(keep) <= COMPACT_BELOW * len(alive):
                    decoder.keep(keep)
                    told(int((room - age).sum() - (room - age[keep]).sum()))
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
        """Ids and log-probabilities (S,), for as many rows at a time as keep their logits in a CPU's cache."""
        size = chunk_size(self.vocabulary, read.device)
        drawn = [
            choose(decoder.logits(part), numbers, params)
            for part, numbers in zip(read.split(size), uniforms.split(size), strict=True)
        ]
        return torch.cat([ids for ids, _ in drawn]), torch.cat([logprobs for _, logprobs in drawn])
