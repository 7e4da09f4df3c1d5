"""Three ways to decode with any causal model of transformers, and the probe that decides which one a model gets.

cohorts   keys and values of a prompt stand once for all its completions, rows of several ages decode together, our
          attention function (`cohorts.py`): every model that reads packed rows
dynamic   the model's own DynamicCache and a 2-D mask
reread    no cache: every step reads the whole row again, rows of one length together (recurrent and hybrid models)

Legend: P prompts, S rows (completions in flight), V vocabulary, d hidden width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from assent.models.attention import selected
from assent.models.head import Logits
from assent.models.last_layer import install
from assent.models.segments import make_segments, rows_read
from assent.models.tiers import miscounted
from assent.models.trunk import trunk_of
from assent.rollouts.cohorts import NAME, Cohort, Flight

Prompts = Sequence[tuple[int, ...]]
CPU_PREFILL_TOKENS = 1024
"""Read together; on a CPU few at a time, so that activations stay in its cache."""

COHORT_COST = {"cpu": 250_000, "other": 100_000_000}
"""What decoding one more cohort costs in each layer and step, as numbers of padded keys and values that are read in the
same time. On a CPU it was measured; elsewhere it is the start of some forty kernels against the memory's bandwidth."""


class Decoder(Protocol):
    """Rows in flight. What it returns for each row is what `logits` takes: the logits of all rows at once would be
    large, so they are made in parts."""

    refills: bool
    """Whether prompts can be admitted while rows are in flight."""
    shares_prompts: bool
    """Whether a prompt stands in the cache once for all its rows."""

    @property
    def tokens(self) -> int:
        """Of cache, in flight; 0 where nothing is."""

    def admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        """Reads each prompt once and adds, behind the rows in flight, repeats[p] rows of it with room for `room`
        tokens each. (new rows, …)"""

    def step(self, ids: Tensor) -> Tensor:
        """Appends ids (S,) to the rows. (S, …)"""

    def logits(self, read: Tensor) -> Tensor:
        """Next-token logits (S, V)."""

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these, ascending."""


class CohortDecoder:
    """Trunk and head apart: the head reads each prompt's last token and each row's newest."""

    refills = shares_prompts = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.device = model, model.device
        config = model.config.get_text_config()
        self.features = int(config.hidden_size)
        heads = int(config.num_attention_heads)
        width = 2 * self.features * int(getattr(config, "num_key_value_heads", None) or heads) // heads
        self.cohort_cost = COHORT_COST["cpu" if self.device.type == "cpu" else "other"] / width
        """In tokens of padding."""
        self.scale = Logits.of(model.config)
        last = install(model, trunk_of(model))
        self.reads_ends = last is not None and last.serves_prompts
        """Whether the last layer's MLP is computed for prompts' ends alone."""
        self.flight = Flight()
        self.positions = torch.zeros(0, dtype=torch.long, device=self.device)

    @property
    def tokens(self) -> int:
        return sum(cohort.tokens for cohort in self.flight.cohorts)

    def admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        states, start = [], 0
        for alike in _alike(np.array([len(prompt) for prompt in prompts]), cost=self.cohort_cost):
            part = slice(start, start + len(alike))
            states.append(self._admit(prompts[part], repeats[part], room))
            start = part.stop
        return torch.cat(states)

    def _admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        """One cohort."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        of = torch.arange(len(prompts)).repeat_interleave(torch.tensor(repeats)).to(self.device)
        cohort = Cohort(lengths, of, room)
        states = torch.cat([self._fill(cohort, prompts, part) for part in self._chunks(prompts)])
        self.flight.cohorts.append(cohort)
        self.positions = torch.cat([self.positions, lengths[of]])
        return states[of]

    def _fill(self, cohort: Cohort, prompts: Prompts, part: slice) -> Tensor:
        """Reads some of the cohort's prompts in one packed row; the last state of each."""
        ends = np.cumsum([len(prompt) for prompt in prompts[part]])
        starts = np.append(0, ends[:-1])
        within = np.minimum(np.arange(cohort.longest), (ends - starts - 1)[:, None])
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        total = int(ends[-1])
        segments = make_segments(spans, (), num_tokens=total, device=self.device, features=self.features)
        if self.reads_ends:
            segments.read = rows_read(np.isin(np.arange(total), ends - 1), device=self.device)
        flight = Flight(
            segments=segments,
            filling=cohort,
            gather=torch.from_numpy(starts[:, None] + within).to(self.device),
            first=part.start,
        )
        ids = torch.tensor([i for prompt in prompts[part] for i in prompt], device=self.device)
        positions = torch.from_numpy(np.concatenate([np.arange(end - start) for start, end in spans])).to(self.device)
        states = self._read(ids, positions, flight)
        if reason := miscounted(self.model, segments):
            raise ValueError(reason)
        return states[torch.from_numpy(ends - 1).to(self.device)]

    def _chunks(self, prompts: Prompts) -> list[slice]:
        limit = CPU_PREFILL_TOKENS if self.device.type == "cpu" else sum(map(len, prompts))
        chunks, start = [], 0
        for end in range(1, len(prompts) + 1):
            if end == len(prompts) or sum(map(len, prompts[start : end + 1])) > limit:
                chunks.append(slice(start, end))
                start = end
        return chunks

    def step(self, ids: Tensor) -> Tensor:
        states = self._read(ids, self.positions, self.flight)
        self.positions = self.positions + 1
        for cohort in self.flight.cohorts:
            cohort.age += 1
            cohort.biases.clear()
        return states

    def _read(self, ids: Tensor, positions: Tensor, flight: Flight) -> Tensor:
        """(T,), (T,) -> (T, d)"""
        flight.calls = 0
        inputs: dict[str, Any] = {"input_ids": ids[None], "position_ids": positions[None], NAME: flight}
        with selected(self.model, NAME):
            return trunk_of(self.model)(**inputs, use_cache=False).last_hidden_state[0]

    def logits(self, read: Tensor) -> Tensor:
        return self.scale.apply(self.model.get_output_embeddings()(read))

    def keep(self, rows: Tensor) -> None:
        self.positions = self.positions[rows]
        kept, start = [], 0
        for cohort in self.flight.cohorts:
            end = start + cohort.rows
            own = rows[(rows >= start) & (rows < end)] - start
            if 0 < len(own) < cohort.rows:
                cohort.keep(own)
            if len(own):
                kept.append(cohort)
            start = end
        self.flight.cohorts = kept


def _alike(lengths: np.ndarray, *, cost: float) -> list[np.ndarray]:
    """Neighbours of like lengths, which are padded to one: parted where that saves more than `cost` tokens."""
    size = np.arange(1, len(lengths))
    padded = np.maximum.accumulate(lengths)[:-1] * size
    padded += np.maximum.accumulate(lengths[::-1])[-2::-1] * size[::-1]
    if len(lengths) < 2 or padded.min() + cost >= lengths.max() * len(lengths):
        return [lengths]
    cut = int(padded.argmin()) + 1
    return [*_alike(lengths[:cut], cost=cost), *_alike(lengths[cut:], cost=cost)]


class _Forward:
    """The model's forward with the keywords it takes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def __call__(self, ids: Tensor, *, positions: Tensor | None = None, **keywords: Any) -> Tensor:
        if self.takes_positions and positions is not None:
            keywords["position_ids"] = positions
        return self.model(input_ids=ids, **keywords, **self.last_only).logits[:, -1]


class DynamicDecoder:
    """Left-padded rows of one age; each row's positions count its own tokens."""

    refills = shares_prompts = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.forward, self.device = model, _Forward(model), model.device
        self.tokens = 0

    def admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        self.cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        padding = None if bool(mask.all()) else mask
        logits = self.forward(
            ids, positions=positions, attention_mask=padding, past_key_values=self.cache, use_cache=True
        )
        source = torch.arange(len(repeats)).repeat_interleave(torch.tensor(repeats)).to(self.device)
        self.cache.batch_select_indices(source)
        self.positions = mask.sum(-1)[source][:, None]
        self.mask = torch.nn.functional.pad(mask[source], (0, room), value=1)
        self.length = longest
        self.tokens = self.mask.numel()
        return logits[source]

    def step(self, ids: Tensor) -> Tensor:
        self.length += 1
        mask = self.mask[:, : self.length]
        logits = self.forward(
            ids[:, None], positions=self.positions, attention_mask=mask, past_key_values=self.cache, use_cache=True
        )
        self.positions = self.positions + 1
        return logits

    def logits(self, read: Tensor) -> Tensor:
        return read

    def keep(self, rows: Tensor) -> None:
        if len(rows):
            self.cache.batch_select_indices(rows)
        self.positions, self.mask = self.positions[rows], self.mask[rows]
        self.tokens = self.mask.numel()


class RereadDecoder:
    """No padding anywhere: what a recurrent layer does with it differs from model to model."""

    refills, shares_prompts = True, False

    def __init__(self, model: PreTrainedModel) -> None:
        self.forward, self.device = _Forward(model), model.device
        self.rows: list[Tensor] = []
        self.room = 0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.rows)) + self.room * len(self.rows)

    def admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        self.room = room
        read = [torch.tensor(prompt, device=self.device) for prompt in prompts]
        source = [p for p, count in enumerate(repeats) for _ in range(count)]
        self.rows += [read[p] for p in source]
        return self._read(read)[torch.tensor(source, device=self.device)]

    def step(self, ids: Tensor) -> Tensor:
        self.rows = [torch.cat([row, new]) for row, new in zip(self.rows, ids[:, None], strict=True)]
        return self._read(self.rows)

    def logits(self, read: Tensor) -> Tensor:
        return read

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]

    def _read(self, rows: Sequence[Tensor]) -> Tensor:
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(i)
        parts = [self.forward(torch.stack([rows[i] for i in same]), use_cache=False) for same in by_length.values()]
        order = torch.tensor([i for same in by_length.values() for i in same], device=self.device)
        logits = torch.cat(parts)
        return torch.empty_like(logits).index_copy_(0, order, logits)


DECODERS: dict[str, type[CohortDecoder] | type[DynamicDecoder] | type[RereadDecoder]] = {
    "cohorts": CohortDecoder,
    "dynamic": DynamicDecoder,
    "reread": RereadDecoder,
}

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference in log-probability that counts as the same."""


@torch.no_grad()
def probe(model: PreTrainedModel) -> tuple[str, str]:
    """The fastest way that gives the numbers of plain, unpadded reads, and why the faster ones do not."""
    reasons: list[str] = []
    for name in ("cohorts", "dynamic"):
        reason = _refusal(DECODERS[name], model)
        if reason is None:
            if name == "cohorts" and (last := install(model, trunk_of(model))) is not None:
                last.serves_prompts = True
                last.serves_prompts = _refusal(CohortDecoder, model) is None
            return name, "; ".join(reasons) or "fastest"
        reasons.append(f"{name}: {reason}")
    return "reread", "; ".join(reasons)


def _refusal(
    kind: type[CohortDecoder] | type[DynamicDecoder] | type[RereadDecoder], model: PreTrainedModel
) -> str | None:
    """Why rows cannot be decoded so; None: they can."""
    expected = _decode(RereadDecoder(model), model, refill=kind.refills)
    try:
        difference = float((_decode(kind(model), model, refill=kind.refills) - expected).abs().max())
    except Exception as error:  # whatever a model raises on what it does not support is a "no"
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if difference <= _TOLERANCE.get(expected.dtype, 1e-1):
        return None
    return f"differs by {difference:.2g} in log-probability from a plain read"


def _decode(decoder: Decoder, model: PreTrainedModel, *, refill: bool) -> Tensor:
    """Log-probabilities of a short decode that expands the prompts unevenly, drops rows and (`refill`) admits more."""
    size = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    prompts = [tuple((7 * i + 3 + n) % size for i in range(n)) for n in (11, 6, 4)]
    rows, read = 4, [decoder.admit(prompts, [2, 1, 1], 5)]
    for t in range(5):
        if t == 2:
            rows = 2
            decoder.keep(torch.tensor([1, 2], device=read[0].device))
        elif t == 3 and refill:
            rows += 3
            read.append(decoder.admit(prompts[1:], [2, 1], 2))
        read.append(decoder.step((torch.arange(rows, device=read[0].device) * 5 + 2 + 11 * t) % size))
    return torch.cat([decoder.logits(x).log_softmax(-1) for x in read])
