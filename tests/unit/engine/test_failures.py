"""Law 9, and memory: what fails in a step leaves the weights as they were, or is repeated in smaller parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.errors import ConfigError, NonFiniteError, OutOfMemoryError, RunError
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from tests.support.engine import Nll, Settings, TinyPolicy, make_groups, make_learner

pytestmark = pytest.mark.usefixtures("threads")


class Weighted(Nll):
    """The loss of each group times its `factor`; `root` gives a finite loss whose gradient at 0 is infinite."""

    def __init__(self, *, root: bool = False) -> None:
        self.root = root

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        assert outputs.logprobs is not None
        factor = batch.value["factor"][batch.group[batch.sequence]]
        values = outputs.logprobs * factor
        return {"nll": (values.abs().sqrt() if self.root else values).sum()}, {}


def groups_with(factors: Mapping[int, float]) -> list[TokenGroup]:
    return [replace(g, value={"factor": factors.get(i, 1.0)}) for i, g in enumerate(make_groups(6))]


def weights_of(learner: Learner) -> dict[str, Tensor]:
    state = {
        f"{name}/{key}": value.clone()
        for name, p in learner.module.named_parameters()
        for key, value in learner.optimiser.state[p].items()
    }
    return state | {name: p.detach().clone() for name, p in learner.module.named_parameters()}


class Bounded(Weighted):
    """A loss that ends where a factor is above 1."""

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        if bool((batch.value["factor"] > 1).any()):
            raise OverflowError("beyond its range")
        return super().__call__(outputs, batch)


class BoundedStep(Bounded):
    scope = "step"


@pytest.mark.parametrize("objective", [Bounded(), BoundedStep()], ids=["row", "step"])
def test_a_loss_beyond_its_range_names_its_row_and_changes_nothing(objective: Bounded) -> None:
    learner = make_learner(micro_batch_tokens=30)
    before = weights_of(learner)
    with pytest.raises(NonFiniteError, match=r"(?s)the loss of step 1.*beyond its range, with rows\.jsonl:4\n"):
        learner.update(groups_with({3: 2.0}), objective)
    assert all(torch.equal(before[name], value) for name, value in weights_of(learner).items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("tokens", [30, 10_000])
def test_a_loss_that_is_not_finite_names_its_row_and_changes_nothing(bad: float, tokens: int) -> None:
    learner = make_learner(micro_batch_tokens=tokens)
    learner.update(groups_with({}), Weighted())
    before = weights_of(learner)
    with pytest.raises(NonFiniteError, match=r"the loss of step 2.*\n.*rows\.jsonl:4\n"):
        learner.update(groups_with({3: bad}), Weighted())
    assert all(torch.equal(before[name], value) for name, value in weights_of(learner).items())
    assert learner.step == 1
    assert all(p.grad is None for p in learner.module.parameters())
    assert np.isfinite(learner.update(groups_with({}), Weighted())["loss"])


def test_a_gradient_that_is_not_finite_names_its_row_and_changes_nothing() -> None:
    learner = make_learner(micro_batch_tokens=40)
    before = weights_of(learner)
    with pytest.raises(NonFiniteError, match=r"the gradient of step 1.*\n.*rows\.jsonl:2\n"):
        learner.update(groups_with({1: 0.0}), Weighted(root=True))
    assert all(torch.equal(before[name], value) for name, value in weights_of(learner).items())


def test_a_step_in_which_nothing_counts_is_an_error() -> None:
    groups = make_groups(2)
    silent = [
        replace(g, completions=tuple(replace(c, mask=(False,) * len(c.ids)) for c in g.completions)) for g in groups
    ]
    with pytest.raises(RunError, match="nothing in this step counts"):
        make_learner().update(silent, Nll())


class Small(TinyPolicy):
    """A device with room for `limit` row tokens."""

    def __init__(self, limit: int, error: Exception) -> None:
        super().__init__()
        self.limit, self.error, self.passes = limit, error, 0

    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        self.passes += 1
        if len(batch.input_ids) > self.limit:
            raise self.error
        return super().forward(batch, want)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_memory_that_runs_out_halves_the_budget_and_repeats_the_step(error: Exception) -> None:
    groups = make_groups(8)
    largest = max(g.num_tokens for g in groups)
    learner = Learner(
        Small(largest, error), runtime=Runtime("cpu"), optim=Settings(micro_batch_tokens=1000), total_steps=10
    )
    metrics = learner.update(groups, Nll())
    expected = make_learner(micro_batch_tokens=1000)
    assert metrics["loss"] == pytest.approx(expected.update(groups, Nll())["loss"], rel=1e-6)
    for ours, theirs in zip(learner.module.parameters(), expected.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert learner.step == 1
    assert learner.budget.tokens < 1000
    passes = learner.module.passes
    learner.update(groups, Nll())  # the budget stays where it worked
    assert learner.module.passes - passes == metrics["perf/micro_batches"]


def test_reading_halves_the_budget_too() -> None:
    groups = make_groups(8)
    module = Small(max(g.num_tokens for g in groups), ERRORS[1])
    learner = Learner(module, runtime=Runtime("cpu"), optim=Settings(micro_batch_tokens=1000), total_steps=1)
    outputs = learner.read(groups, want={"logprobs"})
    expected = make_learner().read(groups, want={"logprobs"})
    torch.testing.assert_close(outputs.logprobs, expected.logprobs, rtol=0, atol=1e-6)


def test_memory_at_the_smallest_batch_is_an_error_with_the_remedies() -> None:
    groups = make_groups(3)
    learner = Learner(Small(5, ERRORS[0]), runtime=Runtime("cpu"), optim=Settings(), total_steps=1)
    before = weights_of(learner)
    with pytest.raises(OutOfMemoryError, match="--gradient-checkpointing"):
        learner.update(groups, Nll())
    assert all(torch.equal(before[name], value) for name, value in weights_of(learner).items())


def test_errors_that_are_not_of_memory_are_not_caught() -> None:
    learner = Learner(Small(0, RuntimeError("shapes")), runtime=Runtime("cpu"), optim=Settings(), total_steps=1)
    with pytest.raises(RuntimeError, match="shapes"):
        learner.update(make_groups(3), Nll())


def test_a_device_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError, match="no device cuda"):
        Runtime("cuda:1")
    with pytest.raises(ConfigError, match="unknown device"):
        Runtime("tpu-v9")
