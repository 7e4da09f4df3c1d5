"""Gradients of embeddings, added by the rows that were read: those of the whole table, and dense."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from assent.engine import learner as learners
from assent.engine.row_gradients import by_rows
from assent.engine.runtime import Runtime
from tests.support.engine import Nll, make_groups, make_learner
from tests.support.models import tiny_module


def gradients_of(reads: list[list[int]], *, rows: bool, **options: object) -> tuple[Tensor, bool]:
    """The table's gradient after these micro-batches, and whether the table was sparse in them."""
    torch.manual_seed(0)
    table = nn.Embedding(7, 3, **options)  # type: ignore[arg-type]
    weights = torch.randn(5, 3)
    sparse = []
    for ids in reads:
        if rows:
            with by_rows(table, Runtime("cpu")):
                sparse.append(table.sparse)
                (table(torch.tensor(ids)) * weights[: len(ids)]).sum().backward()
        else:
            (table(torch.tensor(ids)) * weights[: len(ids)]).sum().backward()
    assert table.weight.grad is not None
    assert not table.sparse
    return table.weight.grad, all(sparse) and bool(sparse)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}])
def test_rows_are_added_to_what_is_there(options: dict[str, int]) -> None:
    reads = [[1, 1, 0, 6], [2], [6, 6, 6, 1, 0]]
    found, was_sparse = gradients_of(reads, rows=True, **options)
    wanted, _ = gradients_of(reads, rows=False, **options)
    assert was_sparse
    assert not found.is_sparse
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    assert torch.equal(found[3], torch.zeros(3))
    assert options == {} or torch.equal(found[0], torch.zeros(3))


@pytest.mark.parametrize("why", ["bfloat16", "frozen", "max_norm", "scale_grad_by_freq"])
def test_other_tables_are_left_alone(why: str) -> None:
    table = nn.Embedding(
        7, 3, dtype=torch.bfloat16 if why == "bfloat16" else None, max_norm=1.0 if why == "max_norm" else None,
        scale_grad_by_freq=why == "scale_grad_by_freq",
    ).requires_grad_(why != "frozen")  # fmt: skip
    with by_rows(table, Runtime("cpu")):
        assert not table.sparse
    assert table.weight.grad is None


def test_a_table_that_no_gradient_reaches_stays_without_one() -> None:
    """One that is not read, and one that is read to no purpose."""
    tables = nn.ModuleList([nn.Embedding(7, 3) for _ in range(3)])
    with by_rows(tables, Runtime("cpu")):
        tables[2](torch.tensor([1]))
        tables[0](torch.tensor([1])).sum().backward()
    assert [table.weight.grad is not None for table in tables] == [True, False, False]
    assert not tables[0].weight._backward_hooks


def test_an_error_leaves_the_table_as_it_was() -> None:
    table = nn.Embedding(7, 3)
    with pytest.raises(IndexError), by_rows(table, Runtime("cpu")):
        table(torch.tensor([7]))
    assert not table.sparse


@pytest.mark.parametrize("tokens", [0, 40])
def test_updates_are_those_of_whole_tables(tokens: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table whose weights are the head's too, and of one that is read alone."""
    found = []
    for rows in (True, False):
        if not rows:
            monkeypatch.setattr(learners, "by_rows", lambda module, runtime, **_: torch.enable_grad())
        pair = []
        for module in (None, tiny_module()):
            learner = make_learner(micro_batch_tokens=tokens)
            if module is not None:
                learner = learners.Learner(module, runtime=learner.runtime, optim=learner.optim, total_steps=10)
            for step in range(3):
                metrics = learner.update(make_groups(6, seed=step), Nll())
                assert (metrics["perf/micro_batches"] > 1) == (tokens > 0 or threads > 1)
            pair.append(dict(learner.module.named_parameters()))
        found.append(pair)
    for ours, torchs in zip(*found, strict=True):
        for name, parameter in ours.items():
            torch.testing.assert_close(parameter, torchs[name], rtol=2e-5, atol=2e-6, msg=name)
