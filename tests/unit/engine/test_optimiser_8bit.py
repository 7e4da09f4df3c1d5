"""AdamW with moments of 8 bits: close to AdamW, less than a third of its memory, resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from assent.config.stages import SftConfig
from assent.engine.learner import Learner
from assent.engine.optimiser import Optimiser, make_adamw
from assent.engine.runtime import Runtime
from assent.errors import ConfigError
from tests.support.engine import Settings, TinyPolicy, assert_same_bits, state_of, whole_and_resumed


def wide(**settings: Any) -> tuple[nn.Linear, Optimiser]:
    torch.manual_seed(0)
    layer = nn.Linear(128, 64)
    return layer, make_adamw(layer, Settings(learning_rate=1e-3, **settings))


def nbytes(optimiser: Optimiser, layer: nn.Module) -> int:
    state = optimiser.named_state({p: name for name, p in layer.named_parameters()})
    return sum(value.nbytes for value in state.values())


def test_steps_are_adamws_but_for_rounding_at_a_third_of_its_memory() -> None:
    (plain, adamw), (layer, optimiser) = wide(), wide(optim="adamw_8bit")
    assert nbytes(adamw, plain) > 8 * 64 * 128
    assert nbytes(optimiser, layer) < 8 * 64 * 128 / 3
    start = plain.weight.detach().clone()
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        gradient = torch.randn(64, 128, generator=generator) + 0.5
        for module, stepped in ((plain, adamw), (layer, optimiser)):
            module.weight.grad = gradient.clone()
            module.bias.grad = gradient[:, 0].clone()
            stepped.step()
    moved = plain.weight - start
    assert float((layer.weight - plain.weight).norm() / moved.norm()) < 0.05
    assert torch.allclose(layer.bias, plain.bias, atol=1e-6)  # a small tensor's moments keep 32 bits


def test_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    def learner(seed: int) -> Learner:
        policy = TinyPolicy(seed=seed, width=64)
        return Learner(policy, runtime=Runtime("cpu"), optim=Settings(optim="adamw_8bit"), total_steps=4)

    whole, resumed = whole_and_resumed(learner, tmp_path)
    state = state_of(whole)
    assert state["state1/layers.0.weight"].dtype == torch.uint8
    assert int(state["step/layers.0.weight"]) == 4
    assert_same_bits(resumed, whole)


def test_sharded_weights_are_refused() -> None:
    class Sharded(Runtime):
        is_sharded = True

    with pytest.raises(ConfigError, match="cannot step sharded weights"):
        Learner(TinyPolicy(), runtime=Sharded("cpu"), optim=Settings(optim="adamw_8bit"), total_steps=1)


def test_what_cannot_be_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"model": "m", "data": "d", "output_dir": "o", "optim": "adamw_8bit"}
    assert SftConfig(**given).optim == "adamw_8bit"
    with pytest.raises(ValueError, match="choose one"):
        SftConfig(**given, dtype="bfloat16", master_weights=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        SftConfig(**given)
