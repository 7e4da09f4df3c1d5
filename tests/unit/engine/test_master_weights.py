"""With float32 copies in the optimiser, bfloat16 weights follow updates that are too small for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from assent.engine.learner import Learner
from assent.engine.optimiser import make_adamw
from assent.engine.references import Reference
from assent.engine.runtime import Runtime
from assent.models.module import AlignmentModel
from tests.support.adapters import adapted
from tests.support.engine import Nll, Settings, assert_same_bits, make_groups, state_of, whole_and_resumed
from tests.support.models import tiny_llama

GROUPS = make_groups(8)


@pytest.mark.parametrize("master_weights", [True, False])
def test_a_hundred_updates_of_a_ten_thousandth(master_weights: bool) -> None:
    """Under a constant gradient Adam's update is the learning rate itself: after n of them, 1 becomes 1 − n · lr."""
    layer = nn.Linear(4, 2, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(layer.weight)
    optimiser = make_adamw(layer, Settings(learning_rate=1e-4, weight_decay=0.0, master_weights=master_weights))
    for _ in range(100):
        layer.weight.grad = torch.full_like(layer.weight, 0.5)
        optimiser.step()
        optimiser.zero_grad()
        assert layer.weight.grad is None
    expected = torch.tensor(0.99 if master_weights else 1.0).bfloat16()
    assert (layer.weight == expected).all()
    assert expected.item() == (0.98828125 if master_weights else 1.0)


def test_a_reference_in_bfloat16_follows_by_small_shares_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """A hundredth of what is left, 200 times: rounded to bfloat16 each time, it would stop at about a third."""
    policy = nn.Linear(4, 2, bias=False, dtype=torch.bfloat16)
    nn.init.constant_(policy.weight, 1.0)

    def started() -> Reference:
        module = nn.Linear(4, 2, bias=False, dtype=torch.bfloat16)
        nn.init.constant_(module.weight, 0.5)
        return Reference(module, Runtime("cpu"))

    whole, first, second = started(), started(), started()
    for _ in range(200):
        whole.move_towards(policy, 0.01)
    for _ in range(120):
        first.move_towards(policy, 0.01)
    first.save(tmp_path)
    second.load(tmp_path)
    for _ in range(80):
        second.move_towards(policy, 0.01)
    expected = torch.tensor(1.0 - 0.5 * 0.99**200).bfloat16()
    for reference in (whole, second):
        assert (reference.module.weight == expected).all()
    assert torch.equal(whole.masters["weight"], second.masters["weight"])


def learner(*, seed: int = 0, **settings: object) -> Learner:
    model = tiny_llama(seed=seed).to(torch.bfloat16)
    assert isinstance(model, LlamaForCausalLM)
    return Learner(
        AlignmentModel(model, kind="policy"),
        runtime=Runtime("cpu"),
        optim=Settings(learning_rate=1e-4, weight_decay=0.0, lr_scheduler_type="constant", **settings),  # type: ignore[arg-type]
        total_steps=30,
    )


def norms(found: Learner) -> torch.Tensor:
    return found.module.hf.model.norm.weight.detach().float()


def test_a_run_of_tiny_updates_moves_with_them_and_does_not_without() -> None:
    moved, stuck = learner(master_weights=True), learner()
    for _ in range(30):
        for found in (moved, stuck):
            found.update(GROUPS[:4], Nll())
    assert torch.equal(norms(stuck), torch.ones(16))
    copy = moved.optimiser.masters[moved.module.hf.model.norm.weight]
    assert 2e-3 < (copy - 1).abs().max() < 2 * 30 * 1e-4
    assert not torch.equal(norms(moved), torch.ones(16))
    assert torch.equal(norms(moved), copy.bfloat16().float())
    assert copy.dtype == moved.optimiser.state[copy]["exp_avg"].dtype == torch.float32


def test_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    whole, resumed = whole_and_resumed(lambda seed: learner(master_weights=True, seed=seed), tmp_path)
    assert any(name.startswith("master/") for name in state_of(whole))
    assert_same_bits(resumed, whole)


def test_what_is_trained_whole_beside_an_adapter_is_held_in_float32() -> None:
    scorer = tiny_llama(kind="scorer").to(torch.bfloat16)
    module = AlignmentModel(adapted(scorer), kind="scorer")
    optimiser = make_adamw(module, Settings())
    assert {p.dtype for group in optimiser.param_groups for p in group["params"]} == {torch.float32}
    assert [tuple(p.shape) for p in optimiser.masters] == [(1, 16)]
