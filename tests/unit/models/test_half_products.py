"""Linear layers under autocast: one cast of an input for all that read it, and autocast's values and gradients."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assent.models import half_products
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from assent.models.products import ChoosingLinear, install
from tests.support.architectures import gradients, make_model, random_groups, weighted

BFLOAT16 = 2.0**-8


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]


def kept_by(function: object) -> list[Tensor]:
    """What a function's graph keeps for its backward pass, leaves left out."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        function()  # type: ignore[operator]
    return kept


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(70, 96), (2, 35, 96), (1, 96)])
def test_values_and_gradients_are_those_of_autocast(has_bias: bool, shape: tuple[int, ...]) -> None:
    inputs = leaves(shape, (33, 96), (33,))[: 3 if has_bias else 2]
    x = inputs[0] * 1.0  # what a layer before it gave
    with torch.autocast("cpu", torch.bfloat16):
        ours, torchs = half_products.linear(x, *inputs[1:]), F.linear(x, *inputs[1:])
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, torchs)
    grad = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    found = torch.autograd.grad(ours, inputs, grad, retain_graph=True)
    wanted = torch.autograd.grad(torchs, inputs, grad)
    for ours_, torchs_, leaf in zip(found, wanted, inputs, strict=True):
        assert ours_.dtype == leaf.dtype
        torch.testing.assert_close(ours_, torchs_, rtol=BFLOAT16, atol=BFLOAT16 * float(torchs_.abs().max()))


def test_gradients_of_layers_that_share_a_cast_are_added_in_float32() -> None:
    """A half of a bfloat16's last place, three times: bfloat16 sums would lose each."""
    x = torch.ones(1, 1, requires_grad=True)
    layers = [torch.full((1, 1), value) for value in (1.0, 2.0**-9, 2.0**-9)]
    with torch.autocast("cpu", torch.bfloat16):
        y = x * 1.0
        total = torch.stack([half_products.linear(y, w.requires_grad_()).float() for w in layers]).sum()
    (grad,) = torch.autograd.grad(total, x)
    assert float(grad) == 1.0 + 2.0**-8


def test_three_layers_keep_one_cast() -> None:
    def read(layers: list[nn.Linear]) -> list[Tensor]:
        x = leaves((40, 96))[0] * 1.0
        return [layer(x) for layer in layers]

    plain = [nn.Linear(96, 8, bias=False) for _ in range(3)]
    choosing = nn.ModuleList([nn.Linear(96, 8, bias=False) for _ in range(3)])
    install(choosing)
    assert all(type(layer) is ChoosingLinear for layer in choosing)
    counts = []
    for layers in (plain, list(choosing)):
        kept = [t for t in kept_by(lambda layers=layers: read(layers)) if t.shape == (40, 96)]
        counts.append(len({t.untyped_storage().data_ptr() for t in kept if t.dtype == torch.bfloat16}))
    assert counts == [3, 1]


def test_a_tensor_that_has_changed_is_cast_anew() -> None:
    weight = leaves((5, 4))[0]
    x = torch.ones(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = half_products.linear(x, weight)
        x.mul_(2)
        after = half_products.linear(x, weight)
        assert torch.equal(after, F.linear(x, weight))
    assert not torch.equal(before, after)


def test_another_type_is_cast_anew() -> None:
    weight, x = leaves((5, 4))[0], torch.ones(2, 4) / 3
    for kind in (torch.bfloat16, torch.float16, torch.bfloat16):
        with torch.autocast("cpu", kind):
            assert half_products.linear(x, weight).dtype == kind
            assert torch.equal(half_products.linear(x, weight), F.linear(x, weight))


def test_the_cast_goes_with_the_graph() -> None:
    """Not with the tensor, which a checkpoint keeps until the backward pass."""
    weight, x = leaves((5, 4))[0], torch.ones(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = half_products.linear(x, weight)
        assert getattr(x, half_products._CAST)[1]() is not None
    out.float().sum().backward()
    del out
    gc.collect()
    assert getattr(x, half_products._CAST)[1]() is None


@pytest.mark.parametrize("why", ["no autocast", "no gradient", "float64", "frozen"])
def test_other_calls_are_torchs(why: str) -> None:
    x, weight = leaves((3, 4), (5, 4))
    x = (x.double() if why == "float64" else x) * 1.0
    weight = weight.detach() if why == "frozen" else weight
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=why != "no autocast"),
        torch.set_grad_enabled(why != "no gradient"),
    ):
        assert not half_products.serves(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert half_products.serves(*(t.detach().float().requires_grad_() * 1.0 for t in (x, weight)))


def test_a_models_gradients_are_those_of_torchs_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pack(random_groups(seed=1), device="cpu")
    found = []
    for ours in (True, False):
        if not ours:
            monkeypatch.setattr(half_products, "serves", lambda *tensors: False)
        model = AlignmentModel(make_model("llama"), kind="policy")
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(batch, frozenset({"logprobs"}))
        found.append(gradients(model, weighted(outputs.logprobs)))
    for name in found[0]:
        scale = float(found[1][name].abs().max())
        assert float((found[0][name] - found[1][name]).abs().max()) <= 4 * BFLOAT16 * scale, name
