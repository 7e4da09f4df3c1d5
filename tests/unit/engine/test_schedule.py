"""Schedules and batch order are functions of the step."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from assent.engine.optimiser import learning_rate, make_adamw
from assent.engine.random import Batches, derived_seed, generator, permutation, uniforms
from tests.support.engine import Settings, TinyPolicy


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("total", "warmup"), [(10, 0.0), (10, 0.25), (7, 0.5), (1, 0.0), (5, 1.0)])
def test_schedules_are_those_of_transformers(name: str, total: int, warmup: float) -> None:
    settings = Settings(learning_rate=0.3, lr_scheduler_type=name, warmup_ratio=warmup)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    num_warmup = -int(-warmup * total // 1)  # ceil
    theirs = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        optimiser,
        num_warmup_steps=num_warmup,
        num_training_steps=total,
    )
    for step in range(total):
        assert learning_rate(step, total, settings) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
        optimiser.step()
        theirs.step()


def test_weight_decay_is_on_matrices_only() -> None:
    module = TinyPolicy()
    optimiser = make_adamw(module, Settings(weight_decay=0.1))
    decayed = {id(p) for group in optimiser.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in module.parameters() if p.ndim == 2}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(module.parameters()))


def test_frozen_parameters_are_left_out() -> None:
    module = TinyPolicy()
    module.embedding.requires_grad_(False)
    trained = {id(p) for group in make_adamw(module, Settings()).param_groups for p in group["params"]}
    assert id(module.embedding.weight) not in trained


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_reads_every_row_once_and_drops_none(shuffle: bool) -> None:
    batches = Batches(num_rows=11, batch_size=4, epochs=2.0, seed=3, shuffle=shuffle)
    assert batches.num_steps == 6
    sizes = [len(batches.indices(step)) for step in range(6)]
    assert sizes == [4, 4, 3, 4, 4, 3]
    epochs = [[i for step in range(e * 3, e * 3 + 3) for i in batches.indices(step)] for e in range(2)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert (epochs[0] == epochs[1]) is not shuffle
    assert (epochs[0] == list(range(11))) is not shuffle


def test_batch_order_depends_on_seed_and_step_alone() -> None:
    one, two = Batches(num_rows=50, batch_size=8, seed=1), Batches(num_rows=50, batch_size=8, seed=1)
    [two.indices(step) for step in range(5)]  # asking for others first changes nothing
    assert one.indices(6) == two.indices(6)
    assert one.indices(0) != Batches(num_rows=50, batch_size=8, seed=2).indices(0)


def test_steps_of_fractional_epochs_and_max_steps() -> None:
    assert Batches(num_rows=100, batch_size=8, epochs=0.5).num_steps == 7  # ceil(0.5 · 13)
    assert Batches(num_rows=100, batch_size=8, epochs=0.5, max_steps=40).num_steps == 40
    batches = Batches(num_rows=10, batch_size=4)
    assert [batches.epochs_done(n) for n in range(4)] == [0.0, 0.4, 0.8, 1.0]


def test_randomness_is_a_function_of_its_key() -> None:
    assert derived_seed(0, "rollout", 1, 2) == derived_seed(0, "rollout", 1, 2)
    keys = [(0, "a", 1), (0, "b", 1), (1, "a", 1), (0, "a", 2), (0, "a", 1, 0), (0, "a", 11)]
    assert len({derived_seed(*key) for key in keys}) == len(keys)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert permutation(20, 0, "epoch", 1) == permutation(20, 0, "epoch", 1)
    assert torch.equal(uniforms(4, 0, "u"), torch.rand(4, generator=generator(0, "u"), dtype=torch.float64))
    assert torch.equal(before, torch.random.get_rng_state())  # the global generator is not touched
