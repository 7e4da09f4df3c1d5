"""Micro-batches two at a time: the numbers of one at a time, and the same bits each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assent.engine import passes
from assent.engine.learner import Learner
from assent.engine.passes import workers
from assent.engine.runtime import Runtime
from assent.models.adapters import adapter_off
from assent.models.at_once import MOST_WORKERS, dealt
from assent.models.attention import NAME, selected
from assent.models.batch import GroupBatch, Outputs
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from tests.support.adapters import adapted
from tests.support.engine import Nll, Settings, TinyPolicy, make_groups, make_learner, torch_threads
from tests.support.models import tiny_llama

PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


def learner_of(kind: str) -> Learner:
    torch.manual_seed(0)
    model = tiny_llama(hidden_size=32, num_hidden_layers=2)
    module = AlignmentModel(adapted(model, lora_r=4) if kind == "lora" else model, kind="policy")
    settings = Settings(gradient_checkpointing=kind == "recomputed")
    return Learner(module, runtime=Runtime("cpu"), optim=settings, total_steps=8)


def trained(kind: str, *, threads: int) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    torch.set_num_threads(threads)
    learner = learner_of(kind)
    metrics = [learner.update(make_groups(7, seed=step), Nll()) for step in range(3)]
    return metrics, {name: p.detach().clone() for name, p in learner.module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["all", "lora", "recomputed"])
def test_updates_are_those_of_one_pass_at_a_time(kind: str) -> None:
    """Of all weights, the table included, and of LoRA's, whose gradients come in another order of memory."""
    (one, first), (two, second) = (trained(kind, threads=n) for n in (1, 2))
    assert one[0]["perf/micro_batches"] == 1
    assert two[0]["perf/micro_batches"] > 1
    for before, after in zip(one, two, strict=True):
        for name in ("loss", "grad_norm", "logps/chosen"):
            assert after[name] == pytest.approx(before[name], rel=2e-5)
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["all", "lora"])
def test_the_bits_are_the_same_each_time(kind: str) -> None:
    (_, first), (_, second) = (trained(kind, threads=2) for _ in range(2))
    assert all(torch.equal(first[name], weight) for name, weight in second.items())


def test_readings_are_those_of_one_pass_at_a_time_with_the_adapter_off_too() -> None:
    learner, groups = learner_of("lora"), make_groups(9)
    for _ in range(2):
        learner.update(groups, Nll())
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        own = learner.read(groups, want={"logprobs"}).logprobs
        with adapter_off(learner.module):
            base = learner.read(groups, want={"logprobs"}).logprobs
        assert own is not None
        assert base is not None
        assert not own.requires_grad
        assert float((own - base).abs().max()) > 1e-3
        found.append(torch.cat([own, base]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


class _Turned(torch.autograd.Function):
    """The identity, whose gradient comes in the transposed order of memory."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].t().contiguous().t()


def test_gradients_have_their_weights_order_of_memory() -> None:
    """A fused optimiser steps through both alike, so another order mixes the entries up without an error."""

    class Other(TinyPolicy):
        def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
            outputs = super().forward(batch, want)
            assert outputs.logprobs is not None
            extra = (_Turned.apply(self.head.weight) * torch.arange(17.0)[:, None]).sum()
            return replace(outputs, logprobs=outputs.logprobs + extra)

    module = Other()
    batches = [pack([group], device="cpu") for group in make_groups(3)]

    def losses(batch: GroupBatch) -> tuple[Tensor, dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        outputs = module(batch, frozenset({"logprobs"}))
        return outputs.logprobs.sum(), {}, {}

    passes.backward_at_once(module, batches, losses, hands=2)
    assert module.head.weight.grad is not None
    assert module.head.weight.grad.stride() == module.head.weight.stride()


def test_two_are_passed_at_once() -> None:
    class Meeting(TinyPolicy):
        def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
            meet.wait(PATIENCE_SECONDS)  # the other one is here too, or this breaks
            return super().forward(batch, want)

    meet = threading.Barrier(2)
    learner = Learner(Meeting(), runtime=Runtime("cpu"), optim=Settings(), total_steps=1)
    groups = [make_groups(1)[0]] * 2
    learner.update(groups, Nll())
    learner.read(groups, want={"logprobs"})


def test_an_error_in_either_comes_out_and_leaves_no_gradient() -> None:
    class Failing(Nll):
        def __call__(
            self, outputs: Outputs, batch: GroupBatch
        ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
            if threading.current_thread() is not threading.main_thread():
                raise KeyError("a fault")
            return super().__call__(outputs, batch)

    learner = make_learner()
    with pytest.raises(KeyError, match="a fault"):
        learner.update(make_groups(6), Failing())
    assert all(p.grad is None for p in learner.module.parameters())
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("scope", ["", "step"])
def test_memory_for_one_pass_but_not_for_two_is_enough(scope: str, tmp_path: Path) -> None:
    """Groups that are alone in their passes already are passed one at a time, for the rest of the run."""

    class Narrow(TinyPolicy):
        inside = 0

        def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
            with lock:
                self.inside += 1
            try:
                if scope and len(batch.prompts) > 1:
                    raise torch.OutOfMemoryError("out of memory")
                if not learner.budget.one_at_a_time:
                    meet.wait(PATIENCE_SECONDS)  # the other one is here too, or this breaks
                    raise torch.OutOfMemoryError("out of memory")
                time.sleep(0.2)  # another pass, if there is one, begins meanwhile
                if self.inside > 1:
                    raise torch.OutOfMemoryError("out of memory")
                return super().forward(batch, want)
            finally:
                with lock:
                    self.inside -= 1

    class Objective(Nll):
        pass

    if scope:
        Objective.scope = scope  # type: ignore[attr-defined]
    lock, meet = threading.Lock(), threading.Barrier(2)
    groups = make_groups(2)
    learner = Learner(Narrow(), runtime=Runtime("cpu"), optim=Settings(), total_steps=2)
    expected = make_learner().update(groups, Objective())
    assert learner.update(groups, Objective())["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert learner.budget.one_at_a_time
    learner.save(tmp_path)
    resumed = make_learner()
    resumed.load(tmp_path)
    assert resumed.budget.one_at_a_time
    assert resumed.budget.hands(resumed.module, resumed.runtime) == 1


def test_a_model_keeps_its_own_attention_once_the_last_thread_has_left() -> None:
    model = tiny_llama()
    own = model.config._attn_implementation
    first, second = selected(model), selected(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert model.config._attn_implementation == NAME  # the other is still inside
    with pytest.raises(RuntimeError, match="at work on the same model"), selected(model, "eager"):
        pass
    second.__exit__(None, None, None)
    assert model.config._attn_implementation == own


def test_workers_follow_from_model_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, policy = Runtime("cpu"), TinyPolicy()
    assert workers(policy, runtime) == 2
    torch.set_num_threads(1)
    assert workers(policy, runtime) == 1
    torch.set_num_threads(16)
    assert workers(policy, runtime) == MOST_WORKERS
    policy.tier = "padded"  # the model's own code, which may keep something of a pass
    assert workers(policy, runtime) == 1
    assert workers(nn.Linear(2, 2), runtime) == 1
    monkeypatch.setattr(passes, "MOST_TRAINED", 10)
    assert workers(TinyPolicy(), runtime) == 1


def test_hands_get_similar_sums_and_every_index_once() -> None:
    assert dealt([5, 4, 3, 3, 3], 2) == [[0, 3], [1, 2, 4]]
    assert dealt([1.0], 4) == [[0]]
    assert sorted(i for hand in dealt([1.0] * 7, 3) for i in hand) == [*range(7)]
