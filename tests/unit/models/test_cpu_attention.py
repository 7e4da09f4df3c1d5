"""Attention in bfloat16 on a CPU: as exact as bfloat16 allows, whichever way the size chooses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from assent.models import cpu_attention
from assent.models.cpu_attention import attend, serves
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from tests.support.architectures import make_model, random_groups

TOLERANCE = {"products": 1.2e-2, "fused": 4e-3}
"""Relative, in the norm; bfloat16 rounds by up to 3.9e-3, and products round the scores too."""


def inputs(heads: int, key_heads: int, *, lq: int = 24, lk: int = 40, window: int | None = None) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, heads, lq, 16), (3, key_heads, lk, 16), (3, key_heads, lk, 8)]
    tensors = [torch.randn(*shape, generator=draw).bfloat16() for shape in shapes]
    behind = torch.arange(lq)[:, None] + (lk - lq) - torch.arange(lk)
    allowed = (behind >= 0) & (behind < (window or lk))
    mask = torch.zeros(3, 1, lq, lk).masked_fill_(~allowed, float("-inf"))
    return [*tensors, mask, torch.randn(3, heads, lq, 8, generator=draw).bfloat16()]


@pytest.mark.parametrize("way", ["products", "fused"])
@pytest.mark.parametrize(("heads", "key_heads", "window"), [(4, 4, None), (4, 2, None), (6, 1, 5)])
def test_rows_and_gradients_are_float64s_up_to_rounding(
    way: str, heads: int, key_heads: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "products" and not cpu_attention._multiplies_bfloat16():
        pytest.skip("no bfloat16 products by oneDNN on this processor")
    monkeypatch.setattr(cpu_attention, "MAX_WEIGHTS", 0 if way == "fused" else 2**22)
    q, k, v, mask, grad = inputs(heads, key_heads, window=window)
    found = gradients(lambda *qkv: attend(*qkv, mask=mask, scale=0.3), [q, k, v], grad)
    assert found[0].dtype == torch.bfloat16
    wanted = gradients(
        lambda *qkv: scaled_dot_product_attention(*qkv, attn_mask=mask.double(), scale=0.3, enable_gqa=True),
        [t.double() for t in (q, k, v)],
        grad.double(),
    )
    for got, exact in zip(found, wanted, strict=True):
        assert got.shape == exact.shape
        assert float((got.double() - exact).norm() / exact.norm()) < TOLERANCE[way]


def gradients(function, tensors: list[Tensor], grad: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    leaves = [t.clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def test_it_serves_what_would_be_computed_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_has_amx", lambda: False)
    wide = torch.ones(1)
    assert serves(wide.bfloat16())
    assert not serves(wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert serves(wide)
    assert not serves(wide.bfloat16().to("meta"))
    monkeypatch.setattr(cpu_attention, "_has_amx", lambda: True)
    assert not serves(wide.bfloat16())


@pytest.mark.parametrize("autocast", [True, False])
def test_a_model_reads_the_same_up_to_rounding(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its own float32, and the attention was asked for."""
    monkeypatch.setattr(cpu_attention, "_has_amx", lambda: False)
    model = make_model("llama").float()
    batch = pack(random_groups(), device="cpu")
    exact = AlignmentModel(model, kind="policy")(batch, frozenset({"logprobs"})).logprobs
    module = AlignmentModel(model if autocast else model.bfloat16(), kind="policy")
    asked: list[int] = []
    plain = cpu_attention.attend
    monkeypatch.setattr(cpu_attention, "attend", lambda *a, **k: asked.append(1) or plain(*a, **k))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        read = module(batch, frozenset({"logprobs"})).logprobs
    assert asked
    torch.testing.assert_close(read.float(), exact, rtol=0, atol=0.05)
