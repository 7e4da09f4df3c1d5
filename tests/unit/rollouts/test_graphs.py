"""Steps of decoding that are recorded and replayed, as a CUDA graph is: the same kernels on the same memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from assent.rollouts import cohorts, decoding
from assent.rollouts.decoding import CohortDecoder, GraphDecoder
from assent.rollouts.graphs import can_record
from assent.rollouts.sampler import SamplingParams
from tests.support.architectures import ARCHITECTURES, make_model
from tests.support.rollouts import KEY, PROMPTS, Waits, same, sampler

SEGMENTS = [name for name, (_, _, tier) in ARCHITECTURES.items() if tier == "segments"]


class Recorded(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: recording runs nothing in the end, and numbers that Python knew are fixed; a
    replay does each operation again on the memory that it had."""

    made: int = 0
    replays: int = 0

    def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, list[Tensor]]] = []
        undo: list[tuple[Tensor, Tensor]] = []
        self.undo = undo
        with self:
            self.out = function()
        for tensor, before in reversed(undo):
            tensor.copy_(before)
        Recorded.made += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.undo.append((value, value.clone()))
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)}
        made = [t for t in tree_flatten(result)[0] if isinstance(t, Tensor)]
        is_new = not any(t.untyped_storage().data_ptr() in given for t in made)
        self.done.append((func, args, kwargs or {}, made if is_new else []))
        return result

    def replay(self) -> Tensor:
        Recorded.replays += 1
        for func, args, kwargs, made in self.done:
            new = [t for t in tree_flatten(func(*args, **kwargs))[0] if isinstance(t, Tensor)]
            for old, value in zip(made, new, strict=False):
                old.copy_(value)
        return self.out


def graphs(model: Any) -> GraphDecoder:
    return GraphDecoder(model, Recorded)


@torch.no_grad()
def logits_of(decoder: Any) -> Tensor:
    """Of rows that are admitted at different times, to prompts of unlike lengths, and dropped: eleven steps."""
    read = [decoder.admit(PROMPTS[:3], [2, 1, 2], 12)]
    rows = 5
    for t in range(11):
        if t == 3:
            decoder.keep(torch.tensor([0, 2, 3]))
            rows = 3
        if t == 5:
            read.append(decoder.admit(PROMPTS[3:5], [1, 2], 12))
            rows += 3
        read.append(decoder.step((torch.arange(rows) * 5 + 7 * t) % 48 + 3))
    return torch.cat([decoder.logits(x) for x in read])


@torch.no_grad()
@pytest.mark.parametrize("name", SEGMENTS)
def test_what_is_replayed_is_what_would_be_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "SPAN", 4)
    monkeypatch.setitem(decoding.COHORT_COST, "cpu", 16)  # several cohorts at once
    model = make_model(name)
    before = Recorded.made, Recorded.replays
    found = logits_of(graphs(model))
    assert Recorded.made - before[0] >= 2
    assert Recorded.replays - before[1] >= 4
    torch.testing.assert_close(found, logits_of(CohortDecoder(model)), rtol=1e-4, atol=1e-4)
    assert decoding._refusal(graphs, model) is None


def test_an_age_that_python_knows_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a number that is fixed in the recording gives other logits."""
    monkeypatch.setattr(cohorts.Cohort, "reach", property(lambda self: self.age + 1))
    monkeypatch.setattr(GraphDecoder, "step", _step_of_fixed_reach)
    model = make_model("llama")
    with pytest.raises(AssertionError):
        torch.testing.assert_close(logits_of(graphs(model)), logits_of(CohortDecoder(model)), rtol=1e-4, atol=1e-4)


def _step_of_fixed_reach(decoder: GraphDecoder, ids: Tensor) -> Tensor:
    if not decoder.reach:
        decoder.recorded, decoder.reach, decoder.ids = None, [0], ids.clone()
        states = decoder._in_place()
    else:
        decoder.ids.copy_(ids)
        decoder.recorded = decoder.recorded or decoder.capture(decoder._in_place, decoder.device)
        states = decoder.recorded.replay().clone()
    for cohort in decoder.flight.cohorts:
        cohort.age += 1
    return states


@torch.no_grad()
@pytest.mark.parametrize("name", SEGMENTS)
def test_nothing_in_a_step_makes_the_host_wait(name: str) -> None:
    decoder = GraphDecoder(make_model(name), Recorded)
    decoder.admit(PROMPTS[:3], [2, 1, 2], 6)
    with Waits() as waits:
        decoder.step(torch.arange(5) + 3)
        decoder.step(torch.arange(5) + 9)
    # transformers looks for padding in what GPT-2 is given, though not while a step is recorded
    assert set(waits.seen) <= ({"_local_scalar_dense"} if name == "gpt2" else set())


@pytest.mark.parametrize("budget", [90, 4096])
def test_samples_are_those_of_cohorts(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decoding.DECODERS, "graphs", graphs)
    params = SamplingParams(max_new_tokens=16)
    prompts = [tuple(3 + (5 * i + j) % 29 for j in range(1 + i % 6)) for i in range(14)]
    drawn = []
    for tier in ("cohorts", "graphs"):
        made = sampler(eos_ids=(2, 30, 31), max_batch_tokens=budget)
        made.tier = tier
        before = Recorded.replays
        drawn.append(made.sample(prompts, num_completions=3, params=params, seed=KEY))
        assert (Recorded.replays > before) == (tier == "graphs")
    same(*drawn)


def test_new_weights_are_never_read_through_an_old_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of `sample` has a decoder, and so recordings, of its own: weights may have moved between two."""
    monkeypatch.setitem(decoding.DECODERS, "graphs", graphs)
    params = SamplingParams(max_new_tokens=8)
    made, plain = sampler(eos_ids=()), sampler(eos_ids=())
    made.tier, plain.tier = "graphs", "cohorts"
    for one in (made, plain):
        one.sample(PROMPTS[:2], num_completions=2, params=params, seed=KEY)
        for parameter in one.model.parameters():
            parameter.data = parameter.data * 1.5  # elsewhere in memory
    drawn = [one.sample(PROMPTS[:2], num_completions=2, params=params, seed=KEY) for one in (made, plain)]
    same(*drawn)


@torch.no_grad()
def test_what_cannot_be_recorded_is_a_no_and_does_not_end_a_run() -> None:
    def cannot(function: Callable[[], Tensor], device: torch.device) -> Any:
        raise torch.OutOfMemoryError("no room for a recording")

    model = make_model("llama")
    assert decoding._refusal(lambda m: GraphDecoder(m, cannot), model) == "OutOfMemoryError: no room for a recording"
    found = logits_of(GraphDecoder(model, cannot))
    torch.testing.assert_close(found, logits_of(CohortDecoder(model)), rtol=1e-4, atol=1e-4)
    assert decoding.probe(model) == ("cohorts", "fastest")  # on a CPU it is not tried


@torch.no_grad()
def test_a_recording_that_does_nothing_is_found_out() -> None:
    """One that was taken on another device, say: what its making left behind looks right once."""

    class Dead:
        def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:
            self.out = function()

        def replay(self) -> Tensor:
            return self.out

    reason = decoding._refusal(lambda model: GraphDecoder(model, Dead), make_model("llama"))
    assert reason is not None
    assert "differs by" in reason


@torch.no_grad()
def test_a_nan_at_any_step_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    step = CohortDecoder.step

    def late(self: CohortDecoder, ids: Tensor) -> Tensor:
        return step(self, ids) * (math.nan if self.flight.cohorts[0].age == 6 else 1.0)

    monkeypatch.setattr(CohortDecoder, "step", late)
    reason = decoding._refusal(CohortDecoder, make_model("llama"))
    assert reason == "differs by nan in log-probability from a plain read"


@pytest.mark.parametrize(("device", "version", "can"), [
    ("cuda", "2.13.0+cu130", True), ("cuda", "2.9.1", False), ("cpu", "2.13.0+cpu", False),
])  # fmt: skip
def test_where_recording_is_tried(device: str, version: str, can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    assert can_record(torch.device(device)) == can
