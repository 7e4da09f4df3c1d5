"""Law 2 for losses that look at the whole step: how it is cut changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.engine.whole_step import propagated
from assent.errors import NonFiniteError
from assent.models.batch import GroupBatch, Outputs, TokenCompletion, TokenGroup
from assent.models.packing import pack
from tests.support.engine import Settings, TinyPolicy, make_groups, make_learner

pytestmark = pytest.mark.usefixtures("threads")

GROUPS = make_groups(9)
WANT = frozenset({"logprobs"})


class Sorted:
    """AOT's shape: the sorted log-probabilities of chosen against those of rejected; not a sum over groups."""

    want, scope = WANT, "step"

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {"sorted": float(batch.num_groups)}

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        assert outputs.logprobs is not None
        chosen, rejected = batch.sum_by_completion(outputs.logprobs).view(-1, 2).unbind(1)
        margins = 0.1 * (chosen.sort().values - rejected.sort().values)
        return {"sorted": -logsigmoid(margins).sum()}, {"rewards/margins": (margins.sum(), margins.new_tensor(9.0))}


class Baseline(Sorted):
    """KTO's shape: each first completion against the mean of the second ones, which get no gradient."""

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        assert outputs.logprobs is not None
        own, other = batch.sum_by_completion(outputs.logprobs).view(-1, 2).unbind(1)
        return {"sorted": torch.sigmoid(0.1 * (other.detach().mean() - own)).sum()}, {}


class SumOfCuts(Sorted):
    scope = "row"


def step(objective: object, tokens: int, *, groups: list[TokenGroup] = GROUPS) -> tuple[dict[str, float], list[Tensor]]:
    """Metrics of one update, and the gradients that its optimiser saw."""
    learner = make_learner(micro_batch_tokens=tokens, max_grad_norm=1e9)
    found: list[Tensor] = []
    parameters = list(learner.module.parameters())
    # Set, not appended: torch runs a hook twice where another test has wrapped the optimiser's class.
    learner.optimiser.register_step_pre_hook(
        lambda *_: found.__setitem__(slice(None), [p.grad.clone() for p in parameters])
    )
    return learner.update(groups, objective), found  # type: ignore[arg-type]


def directly(objective: Sorted, groups: list[TokenGroup] = GROUPS) -> tuple[float, list[Tensor]]:
    """Loss and gradients with torch alone, all groups at once."""
    module, batch = TinyPolicy(), pack(groups, device="cpu")
    loss = objective(module(batch, WANT), batch)[0]["sorted"] / batch.num_groups
    loss.backward()
    return loss.item(), [p.grad for p in module.parameters() if p.grad is not None]


def masked(groups: list[TokenGroup]) -> list[TokenGroup]:
    """Every third token of a first completion does not count."""
    return [
        replace(
            group,
            completions=(
                replace(group.completions[0], mask=tuple(i % 3 != 1 for i in range(len(group.completions[0].ids)))),
                *group.completions[1:],
            ),
        )
        for group in groups
    ]


@pytest.mark.parametrize("objective", [Sorted(), Baseline()], ids=["sorted", "baseline"])
@pytest.mark.parametrize("tokens", [1, 40, 10_000])
@pytest.mark.parametrize("groups", [GROUPS, masked(GROUPS)], ids=["whole", "masked"])
def test_gradients_are_those_of_the_whole_step(objective: Sorted, tokens: int, groups: list[TokenGroup]) -> None:
    loss, gradients = directly(objective, groups)
    metrics, found = step(objective, tokens, groups=groups)
    assert (metrics["perf/micro_batches"] == 1) == (tokens == 10_000)
    assert metrics["loss"] == metrics["loss/sorted"] == pytest.approx(loss, rel=1e-6)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_the_same_loss_of_each_cut_alone_is_another() -> None:
    """The negative control: without `scope`, the cut decides."""
    _, gradients = directly(Sorted())
    _, found = step(SumOfCuts(), 40)
    assert any((a - b).abs().max() > 1e-2 * b.abs().max() for a, b in zip(found, gradients, strict=True))


def test_metrics_are_the_whole_steps() -> None:
    cut, whole = (step(Sorted(), tokens)[0] for tokens in (40, 10_000))
    names = {name for name in whole if not name.startswith(("perf/", "num_", "grad"))}
    assert {"loss", "loss/sorted", "rewards/margins"} <= names
    for name in names:
        assert cut[name] == pytest.approx(whole[name], rel=1e-6), name


def test_completions_that_the_loss_does_not_depend_on_are_not_passed_again() -> None:
    groups = [replace(g, completion={"thumb": np.array([1.0, np.nan])}) for g in GROUPS]
    learner = make_learner()
    parts, propagation, _ = propagated(groups, Baseline(), learner.read(groups, want=WANT))
    assert [part.completions for part in parts] == [group.completions[:1] for group in groups]
    assert all(part.completion["thumb"].tolist() == [1.0] for part in parts)
    assert propagation.counts(pack(parts, device="cpu"))["step"] == 1.0


class Poisoned(TinyPolicy):
    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        outputs = super().forward(batch, want)
        bad = torch.tensor([source == "rows.jsonl:5" for source in batch.sources])[batch.group[batch.sequence]]
        assert outputs.logprobs is not None
        return replace(outputs, logprobs=torch.where(bad, torch.nan, outputs.logprobs))


def learner_of(module: nn.Module, tokens: int) -> Learner:
    return Learner(module, runtime=Runtime("cpu"), optim=Settings(micro_batch_tokens=tokens), total_steps=10)


@pytest.mark.parametrize("tokens", [40, 10_000])
def test_a_row_that_is_not_finite_is_named_and_nothing_changes(tokens: int) -> None:
    learner = learner_of(Poisoned(), tokens)
    before = learner.fingerprint()
    with pytest.raises(NonFiniteError) as caught:
        learner.update(GROUPS, Sorted())
    assert "with rows.jsonl:5\n" in str(caught.value)
    assert learner.fingerprint() == before


class Small(TinyPolicy):
    """Runs out of memory when gradients are taken of more than `limit` tokens."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        if torch.is_grad_enabled() and len(batch.input_ids) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(batch, want)


def test_memory_that_runs_out_changes_nothing_but_the_budget() -> None:
    learner = learner_of(Small(60), 10_000)
    metrics = learner.update(GROUPS, Sorted())
    assert learner.budget.tokens <= 60 < metrics["num_tokens"]
    expected = learner_of(TinyPolicy(), 10_000)
    assert metrics["grad_norm"] == pytest.approx(expected.update(GROUPS, Sorted())["grad_norm"], rel=1e-5)
    for ours, theirs in zip(learner.module.parameters(), expected.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_memory_is_halved_for_what_gradients_are_taken_of() -> None:
    """Each group fills a micro-batch while it is read; without its second completion six of them fit into one."""
    groups = [
        TokenGroup((1, 2, 3, 4), (TokenCompletion((5, 6, 7, i)), TokenCompletion((8,) * 40)), source=f"rows.jsonl:{i}")
        for i in range(6)
    ]
    learner, expected = learner_of(Small(20), 50), learner_of(TinyPolicy(), 50)
    found = learner.update(groups, Baseline())
    assert found["grad_norm"] == pytest.approx(expected.update(groups, Baseline())["grad_norm"], rel=1e-5)


def test_several_heads_propagate_each_their_own() -> None:
    groups = [TokenGroup((1,), (TokenCompletion((2,)), TokenCompletion((3,)))) for _ in range(2)]
    scores = torch.arange(1.0, 9.0).reshape(4, 2)

    class Product:
        want, scope = frozenset({"scores"}), "step"

        def counts(self, batch: GroupBatch) -> dict[str, float]:
            return {"product": 1.0}

        def __call__(self, outputs: Outputs, batch: GroupBatch) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
            assert outputs.scores is not None
            return {"product": (outputs.scores[:, 0] * outputs.scores[:, 1]).sum()}, {}

    parts, propagation, _ = propagated(groups, Product(), Outputs(scores=scores.clone()))
    leaf = scores.clone().requires_grad_()
    for i, part in enumerate(parts):
        propagation(Outputs(scores=leaf[2 * i : 2 * i + 2]), pack([part], device="cpu"))[0]["step"].backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, scores.flip(1))
