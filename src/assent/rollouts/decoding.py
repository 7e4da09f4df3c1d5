"""The ways to decode with any causal model of transformers, and the probe that chooses one for a model.

cohorts   a prompt's keys and values are stored once for all its completions, rows of several ages decode together, with
          our attention function (`cohorts.py`): for every model that reads packed rows
graphs    the same on CUDA, with each step started as one graph (`graphs.py`)
dynamic   the model's own DynamicCache and a 2-D mask
reread    no cache: every step reads the whole row again, rows of equal length together (recurrent and hybrid models)

Legend: P prompts, S rows (completions in flight), V vocabulary, d hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from assent.models.attention import selected
from assent.models.head import Logits
from assent.models.kept_answers import Answer, ask_copies
from assent.models.last_layer import LastLayer, install
from assent.models.preparing import prepare
from assent.models.segments import make_segments, rows_read
from assent.models.shape import layer_configs
from assent.models.tiers import check_causal, is_causal, miscounted
from assent.models.trunk import trunk_of
from assent.rollouts.cohorts import NAME, Cohort, Flight
from assent.rollouts.graphs import CapturedStep, OnDevice, can_record, without_waiting
from assent.rollouts.plain_decoders import DynamicDecoder, Prompts, RereadDecoder

CPU_PREFILL_TOKENS = 1024
"""Prompt tokens that a CPU reads together: few, so that activations stay in its cache."""

COHORT_COST = {"cpu": 250_000, "other": 100_000_000}
"""The cost of decoding one more cohort in each layer and step, as the padded keys and values that are read in the same
time. The CPU's was measured; the other is the start of about forty kernels at the memory's bandwidth."""


class Decoder(Protocol):
    """Decodes rows in flight. It returns for each row what `logits` takes: all rows' logits at once would be large, so
    the caller computes them in parts."""

    refills: bool
    """Whether prompts can be admitted while rows are in flight."""
    shares_prompts: bool
    """Whether the cache stores a prompt once for all its rows."""

    @property
    def tokens(self) -> int:
        """Tokens of cache in flight; 0 if there are none."""

    def admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        """Reads each prompt once and adds repeats[p] rows of it after the rows in flight, each with room for `room`
        tokens. Returns (new rows, …)."""

    def step(self, ids: Tensor) -> Tensor:
        """Appends ids (S,) to the rows. Returns (S, …)."""

    def logits(self, read: Tensor) -> Tensor:
        """Next-token logits (S, V)."""

    def keep(self, rows: Tensor) -> None:
        """Drops all rows except `rows` (ascending)."""


class CohortDecoder:
    """Calls trunk and head separately: the head reads each prompt's last token and each row's newest token."""

    refills = shares_prompts = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.device = model, model.device
        config = model.config.get_text_config()
        self.features = int(config.hidden_size)
        layer = layer_configs(config)[0]
        heads = int(layer.num_attention_heads)
        width = 2 * self.features * int(getattr(layer, "num_key_value_heads", None) or heads) // heads
        self.cohort_cost = COHORT_COST["cpu" if self.device.type == "cpu" else "other"] / width
        """The cost of one more cohort, in padding tokens."""
        self.scale = Logits.of(model.config)
        last = install(model, trunk_of(model))
        self.reads_ends = last is not None and last.serves_prompts
        """Whether the last layer's MLP is computed for the prompts' last tokens only."""
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
        """Admits one cohort."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        of = torch.arange(len(prompts)).repeat_interleave(torch.tensor(repeats)).to(self.device)
        cohort = self._cohort(lengths, of, room)
        states = torch.cat([self._fill(cohort, prompts, part) for part in self._chunks(prompts)])
        self.flight.cohorts.append(cohort)
        self.positions = torch.cat([self.positions, lengths[of]])
        return states[of]

    def _cohort(self, lengths: Tensor, of: Tensor, room: int) -> Cohort:
        return Cohort(lengths, of, room)

    def _fill(self, cohort: Cohort, prompts: Prompts, part: slice) -> Tensor:
        """Reads some of the cohort's prompts in one packed row. Returns the last state of each."""
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
    """Cuts lengths into runs of neighbours, each padded to one length. A cut must save more than `cost` tokens."""
    size = np.arange(1, len(lengths))
    padded = np.maximum.accumulate(lengths)[:-1] * size
    padded += np.maximum.accumulate(lengths[::-1])[-2::-1] * size[::-1]
    if len(lengths) < 2 or padded.min() + cost >= lengths.max() * len(lengths):
        return [lengths]
    cut = int(padded.argmin()) + 1
    return [*_alike(lengths[:cut], cost=cost), *_alike(lengths[cut:], cost=cost)]


class GraphDecoder(CohortDecoder):
    """Cohorts whose steps keep their shapes, so that one step is recorded and the others replay it (`graphs.py`).

    The first step after the rows have changed runs unrecorded, so that libraries set up what must not be recorded. The
    second step is recorded, and a step is recorded again whenever a cohort's reach has grown.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        capture: Callable[[Callable[[], Tensor], torch.device], CapturedStep] = OnDevice,
    ) -> None:
        super().__init__(model)
        self.capture = capture
        self.recorded: CapturedStep | None = None
        self.failed = ""
        """Why steps are no longer recorded, such as too little memory. They are then started kernel by kernel."""
        self.reach: list[int] = []
        """Each cohort's reach in the previous step; empty if rows have changed since."""
        self.ids = self.positions

    def _cohort(self, lengths: Tensor, of: Tensor, room: int) -> Cohort:
        return Cohort(lengths, of, room, at=torch.zeros(1, dtype=torch.long, device=self.device))

    def admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        self.recorded, self.reach = None, []
        return super().admit(prompts, repeats, room)

    def keep(self, rows: Tensor) -> None:
        self.recorded, self.reach = None, []
        super().keep(rows)

    def step(self, ids: Tensor) -> Tensor:
        reach = [cohort.reach for cohort in self.flight.cohorts]
        if reach != self.reach:
            self.recorded, self.reach, self.ids = None, reach, ids.clone()
            with without_waiting(self.device):
                states = self._in_place()
        else:
            self.ids.copy_(ids)
            self._record()
            states = self._in_place() if self.recorded is None else self.recorded.replay().clone()
        for cohort in self.flight.cohorts:
            cohort.age += 1
        return states

    def _record(self) -> None:
        """Records the step. Recording computes nothing, so if it fails, the step still has to be run."""
        if self.recorded is None and not self.failed:
            try:
                self.recorded = self.capture(self._in_place, self.device)
            except RuntimeError as error:
                self.failed = f"{type(error).__name__}: {str(error).splitlines()[0]}"

    def _in_place(self) -> Tensor:
        """A step that changes only tensors, in place: no Python state changes."""
        for cohort in self.flight.cohorts:
            cohort.biases.clear()
        states = self._read(self.ids, self.positions, self.flight)
        self.positions += 1
        for cohort in self.flight.cohorts:
            assert cohort.at is not None
            cohort.at += 1
        return states


DECODERS: dict[str, Callable[[PreTrainedModel], Decoder]] = {
    "graphs": GraphDecoder,
    "cohorts": CohortDecoder,
    "dynamic": DynamicDecoder,
    "reread": RereadDecoder,
}

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""The largest difference in log-probability that counts as equal."""


@torch.no_grad()
def probe(model: PreTrainedModel) -> tuple[str, str]:
    """The fastest way whose numbers equal those of plain, unpadded reads, and why faster ones were refused.

    Small copies of the model say which ways do, and a few tokens confirm it on the model's own weights. Without a small
    copy, the model's own weights are probed.
    """
    ways = tuple(name for name in ("graphs", "cohorts", "dynamic") if name != "graphs" or can_record(model.device))
    answer = ask_copies(model, "decoders", partial(_ask_copy, ways=ways), ways=ways)
    check_causal(model, answer)
    reasons: list[str] = []
    for name in ways:
        reason = _refusal(DECODERS[name], model) if answer is None else answer.refused[name]
        if reason is None:
            may_be_short = _serves_prompts(model, name) if answer is None else answer.facts["serves_prompts"]
            reason = None if answer is None else _unconfirmed(model, name, may_be_short=may_be_short)
        if reason is None:
            return name, "; ".join(reasons) or "fastest"
        reasons.append(f"{name}: {reason}")
    return "reread", "; ".join(reasons)


def _ask_copy(copy: PreTrainedModel, *, ways: Sequence[str]) -> Answer:
    prepare(copy)
    _decode(RereadDecoder(copy), copy, refill=True)  # raises if the copy cannot be read at all
    refused = {name: _refusal(DECODERS[name], copy) for name in ways}
    serves = refused["cohorts"] is None and _serves_prompts(copy, "cohorts")
    return Answer(refused, {"serves_prompts": serves, "is_causal": is_causal(copy)})


def _serves_prompts(model: PreTrainedModel, name: str) -> bool:
    """Whether the last layer's MLP may read only the prompts' ends; it then does so."""
    if (last := _last_layer(model, name)) is None:
        return False
    last.serves_prompts = True
    last.serves_prompts = _refusal(CohortDecoder, model) is None
    return last.serves_prompts


def _last_layer(model: PreTrainedModel, name: str) -> LastLayer | None:
    return None if name == "dynamic" else install(model, trunk_of(model))


def _unconfirmed(model: PreTrainedModel, name: str, *, may_be_short: bool) -> str | None:
    """Why a few tokens of one prompt's two completions cannot be decoded this way; None if they can."""
    size = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    prompt, steps = 4, 3 if name == "graphs" else 2  # the first step of `graphs` is not recorded, the third is replayed
    ids = (torch.arange(2 * (prompt + steps), device=model.device).view(2, -1) * 7 + 3) % size
    ids[1, :prompt] = ids[0, :prompt]
    last, reason = _last_layer(model, name), None
    for is_short in (True, False) if may_be_short and last is not None else (False,):
        if last is not None:
            last.serves_prompts = is_short
        try:
            decoder = DECODERS[name](model)
            read = [decoder.admit([tuple(ids[0, :prompt].tolist())], [2], steps + 1)]
            read += [decoder.step(ids[:, prompt + t]) for t in range(steps)]
            expected = model(input_ids=ids, use_cache=False).logits[:, prompt - 1 :].log_softmax(-1)
            found = [decoder.logits(x).log_softmax(-1) for x in read]
            reason = _difference(found, list(expected.unbind(1))) or getattr(decoder, "failed", "") or None
        except Exception as error:  # any error means that the model does not support this way
            reason = _said(error)
        if reason is None:
            return None
    return reason


def _refusal(kind: Callable[[PreTrainedModel], Decoder], model: PreTrainedModel) -> str | None:
    """Why rows cannot be decoded this way; None if they can."""
    try:
        decoder = kind(model)
        expected = _decode(RereadDecoder(model), model, refill=decoder.refills)
        found = _decode(decoder, model, refill=decoder.refills)
        return _difference(found, expected) or getattr(decoder, "failed", "") or None
    except Exception as error:  # any error means that the model does not support this way
        return _said(error)


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
    # torch's max, in which NaN is the largest number.
    difference = float(torch.stack([(a - b).abs().max() for a, b in zip(found, expected, strict=True)]).max())
    if difference <= _TOLERANCE.get(expected[0].dtype, 1e-1):
        return None
    return f"differs by {difference:.2g} in log-probability from a plain read"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _decode(decoder: Decoder, model: PreTrainedModel, *, refill: bool) -> list[Tensor]:
    """Log-probabilities by step of a decode that expands prompts unevenly, drops rows and (`refill`) admits more.

    Rows stay for three steps, then for four, so that a recorded step is replayed more than once.
    """
    size = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    prompts = [tuple((7 * i + 3 + n) % size for i in range(n)) for n in (11, 6, 4)]
    rows, read = 4, [decoder.admit(prompts, [2, 1, 1], 9)]
    for t in range(9):
        if t == 3:
            rows = 2
            decoder.keep(torch.tensor([1, 2], device=read[0].device))
        elif t == 5 and refill:
            rows += 3
            read.append(decoder.admit(prompts[1:], [2, 1], 4))
        read.append(decoder.step((torch.arange(rows, device=read[0].device) * 5 + 2 + 11 * t) % size))
    return [decoder.logits(x).log_softmax(-1) for x in read]
