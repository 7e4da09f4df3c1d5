"""oneDNN's float32 products: where they are taken, and that only rounding differs."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from assent.models import products
from assent.models.head import is_plain_linear
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from tests.support.architectures import assert_same_gradients, gradients, make_model, random_groups, weighted

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
ROUNDING = 3e-7
"""Relative to a sum of absolute values; a float32 product of a few hundred terms stays below."""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """oneDNN is chosen, whatever the processor and however small; the shapes of what it multiplied."""
    shapes: list[tuple[int, ...]] = []
    product = products._product

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append((*x.shape, len(weight)))
        return product(x, weight, bias)

    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "MIN_MULTIPLICATIONS", 1)
    monkeypatch.setattr(products, "_product", spy)
    return shapes


@needs_onednn
def test_a_product_can_be_added_to_in_place(taken: list[tuple[int, ...]]) -> None:
    layer, x = products.ChoosingLinear(16, 8), torch.ones(2, 40, 16)
    found = layer(x)
    found += 1.0
    found.sum().backward()
    assert taken
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, torch.full((8, 16), 80.0))


def differs(found: Tensor, wanted: Tensor, size: Tensor) -> float:
    return float(((found.detach().double() - wanted.detach()).abs() / size.clamp_min(1e-30)).max())


def inputs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    wide = torch.randn(70, 2, 96, generator=draw)
    return {
        "rows": wide[:, 0].contiguous(),
        "three dimensions": wide.reshape(2, 70, 96),
        "every other row": wide[:, 1],
        "every other column": wide.reshape(70, 192)[:, ::2],
        "transposed": torch.randn(96, 70, generator=draw).t(),
        "one row many times": wide[:1, 0].expand(40, -1),
    }


@needs_onednn
@pytest.mark.parametrize("name", inputs())
@pytest.mark.parametrize("has_bias", [True, False])
def test_products_and_gradients_are_those_of_float64(name: str, has_bias: bool, taken: list[tuple[int, ...]]) -> None:
    draw = torch.Generator().manual_seed(1)
    x = inputs()[name]
    weight, bias = torch.randn(33, 96, generator=draw), torch.randn(33, generator=draw) if has_bias else None
    leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, weight, bias) if t is not None]
    y = products.linear(*leaves)
    grad = torch.randn(y.shape, generator=draw)
    found = [y, *torch.autograd.grad(y, leaves, grad)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    y64 = F.linear(*exact)
    wanted = [y64, *torch.autograd.grad(y64, exact, grad.double())]
    sizes = [t.detach().abs() for t in exact]
    y_size = F.linear(*sizes)
    above = grad.double().abs().reshape(-1, 33)
    rows = sizes[0].reshape(-1, 96)
    sums = [y_size, (above @ sizes[1]).reshape(x.shape), above.t() @ rows, above.sum(0)]
    assert all(differs(f, w, s) < ROUNDING for f, w, s in zip(found, wanted, sums, strict=False))
    assert len(taken) == 3


@needs_onednn
@pytest.mark.parametrize(("outputs", "inputs", "shape"), [(96, 8, (8, 200, 96)), (8, 96, (8, 200, 96))])
def test_a_weights_gradient_copies_the_smaller_side(
    outputs: int, inputs: int, shape: tuple[int, ...], taken: list[tuple[int, ...]]
) -> None:
    draw = torch.Generator().manual_seed(2)
    x, grad = torch.randn(2, 100, inputs, generator=draw), torch.randn(2, 100, outputs, generator=draw)
    found = products.weight_gradient(grad, x)
    above, below = grad.reshape(200, -1).double(), x.reshape(200, -1).double()
    assert differs(found, above.t() @ below, above.t().abs() @ below.abs()) < ROUNDING
    assert taken == [shape]


@needs_onednn
def test_the_gradient_of_a_sum_is_exact(taken: list[tuple[int, ...]]) -> None:
    """Its stride is 0 in both directions."""
    x, weight = torch.ones(20, 8, requires_grad=True), torch.arange(24.0).reshape(3, 8).requires_grad_()
    products.linear(x, weight).sum().backward()
    assert torch.equal(x.grad, torch.arange(24.0).reshape(3, 8).sum(0).expand(20, 8))
    assert torch.equal(weight.grad, torch.full((3, 8), 20.0))


@needs_onednn
@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.ones(products.MIN_ROWS - 1, 8), torch.ones(3, 8)),
        (torch.ones(20, 8, dtype=torch.float64), torch.ones(3, 8, dtype=torch.float64)),
        (torch.ones(20, 8, dtype=torch.bfloat16), torch.ones(3, 8, dtype=torch.bfloat16)),
        (torch.ones(0, 8), torch.ones(3, 8)),
        (torch.ones(20, 0), torch.ones(3, 0)),
    ],
    ids=["few rows", "float64", "bfloat16", "no row", "no column"],
)
def test_everything_else_goes_to_torch(x: Tensor, weight: Tensor, taken: list[tuple[int, ...]]) -> None:
    assert torch.equal(products.linear(x, weight), F.linear(x, weight))
    assert taken == []


@needs_onednn
def test_small_products_go_to_torch(taken: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MIN_MULTIPLICATIONS", 20 * 8 * 3)
    products.linear(torch.ones(20, 8), torch.ones(2, 8))
    assert taken == []
    products.linear(torch.ones(20, 8), torch.ones(3, 8))
    assert taken == [(20, 8, 3)]


@needs_onednn
def test_under_autocast_the_type_is_autocasts(taken: list[tuple[int, ...]]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert products.linear(torch.ones(20, 8), torch.ones(3, 8)).dtype == torch.bfloat16
    assert taken == []


@needs_onednn
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_model_reads_and_learns_the_same(
    name: str, taken: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = random_groups()
    found = []
    for faster in (False, True):
        monkeypatch.setattr(products, "onednn_is_faster", lambda faster=faster: faster)
        model = make_model(name).float()
        module = AlignmentModel(model, kind="policy")
        kinds = {type(part) for part in model.modules()}
        assert kinds & {products.ChoosingLinear, products.ChoosingConv1D}
        assert not kinds & {nn.Linear, Conv1D}
        outputs = module(pack(groups, device="cpu"), frozenset({"logprobs"}))
        found.append((outputs.logprobs.detach(), gradients(model, weighted(outputs.logprobs))))
        assert bool(taken) == faster
    (logprobs, plain), (others, chosen) = found
    torch.testing.assert_close(others, logprobs, rtol=0, atol=1e-5)
    assert_same_gradients(chosen, plain)


def test_a_layer_stays_what_it_was(taken: list[tuple[int, ...]]) -> None:
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(8, 3), Special(3, 2), nn.Linear(2, 2))
    model[2].register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model)
    products.install(model)
    products.install(model)
    assert [type(layer) for layer in model] == [products.ChoosingLinear, Special, products.ChoosingLinear]
    assert is_plain_linear(model[0])
    assert not is_plain_linear(model[2])
    torch.testing.assert_close(dict(model.state_dict()), dict(before.state_dict()), rtol=0, atol=0)
    x = torch.randn(20, 8)
    for other in (copy.deepcopy(model[0]), pickle.loads(pickle.dumps(model[0]))):
        torch.testing.assert_close(other(x), before[0](x))
        assert type(other) is products.ChoosingLinear


@pytest.mark.parametrize(
    ("processor", "capability", "faster"),
    [("vendor_id\t: AuthenticAMD", "AVX512", True), ("vendor_id\t: AuthenticAMD", "AVX2", False),
     ("vendor_id\t: GenuineIntel", "AVX512", False)],
)  # fmt: skip
def test_the_processor_alone_decides(
    processor: str, capability: str, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_processor", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    both = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    assert products.onednn_is_faster.__wrapped__() == (faster and both)


def test_compiled_products_are_few_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = products.CACHES
    monkeypatch.delenv(first, raising=False)
    monkeypatch.setenv(second, "7")
    products.install(nn.Linear(2, 2))
    assert (os.environ[first], os.environ[second]) == (str(products.CACHES[first]), "7")
