"""Attention over segments: equal to a dense computation, strict about keywords, and switched back after use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from assent.models import cpu_attention, joined_attention, varlen
from assent.models import segments as segments_module
from assent.models.attention import NAME, attention, selected
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from assent.models.segments import make_segments
from assent.models.trunk import read
from tests.support.architectures import make_model, random_groups

MANY = tuple((p + 2, tuple((3 * p + k) % 7 + 1 for k in range(3))) for p in range(12))
LAYOUTS = {
    "one": ((5, (4,)),),
    "pair": ((5, (4, 7)),),
    "mixed": ((11, (5, 12, 3)), (1, (9,)), (17, (2, 14))),
    "many": MANY,
}
OPTIONS = [
    {},
    {"sliding_window": 4},
    {"softcap": 1.5},
    {"s_aux": True},
    {"softcap": 1.5, "s_aux": True, "sliding_window": 5, "scaling": 0.9},
]


def _dense(batch: Any, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    """(1, T, H, D) from one T × T score matrix: a token sees earlier positions of its prompt and of its completion."""
    total = q.shape[2]
    owner, prompt = torch.full((total,), -1), torch.zeros(total, dtype=torch.long)
    for g, (start, end) in enumerate(batch.prompts):
        prompt[start:end] = g
    for s, (start, end) in enumerate(batch.completions):
        owner[start:end], prompt[start:end] = s, batch.group[s]
    position = batch.position_ids
    allowed = (prompt[:, None] == prompt) & ((owner == -1) | (owner[:, None] == owner))
    distance = position[:, None] - position
    allowed &= (distance >= 0) & (distance < options.get("sliding_window", 10**6))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * options.get("scaling", q.shape[-1] ** -0.5)
    if "softcap" in options:
        scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
    weights = scores.masked_fill(~allowed, float("-inf"))
    if "s_aux" in options:
        weights = torch.cat([weights, options["s_aux"][None, :, None, None].expand(1, -1, total, 1)], dim=-1)
        return (weights.softmax(-1)[..., :-1] @ v).transpose(1, 2)
    return (weights.softmax(-1) @ v).transpose(1, 2)


def _inputs(layout: str, **how: Any) -> tuple[Any, list[Tensor], Any]:
    batch = pack(random_groups(LAYOUTS[layout]), device="cpu")
    total = len(batch.input_ids)
    torch.manual_seed(0)
    made = [torch.randn(1, heads, total, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    return batch, made, make_segments(batch.prompts, batch.completions, num_tokens=total, device="cpu", **how)


@pytest.mark.parametrize("skips_half", [False, True])
@pytest.mark.parametrize("call_cost", [0, 10**9])  # a bucket for each length, one bucket for all
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_segments_equal_dense_attention(
    layout: str, options: dict[str, Any], call_cost: int, skips_half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(segments_module.CALL_COST, "cpu", call_cost)
    monkeypatch.setattr(segments_module, "KEY_BLOCK", 1)
    batch, inputs, segments = _inputs(layout, skips_half=skips_half)
    options = {**options, **({"s_aux": torch.linspace(-1, 1, 4, dtype=torch.float64)} if "s_aux" in options else {})}
    expected = _dense(batch, *inputs, options)
    got, weights = attention(torch.nn.Identity(), *inputs, None, assent_segments=segments, **options)
    assert weights is None
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(got, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)


def test_similar_segments_share_a_call() -> None:
    _, _, segments = _inputs("many")
    assert len(segments.buckets) <= 4
    assert sum(b.shape[0] for b in segments.buckets) == 36


def test_long_completions_have_their_own_keys_apart_where_attention_skips_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments_module, "KEY_BLOCK", 6)
    monkeypatch.setitem(segments_module.CALL_COST, "cpu", 0)
    batch = pack(random_groups([(4, (9, 9, 6)), (12, (2, 5))]), device="cpu")
    apart = {
        skips: [
            (b.shape, b.apart)
            for b in make_segments(
                batch.prompts, batch.completions, num_tokens=len(batch.input_ids), device="cpu", skips_half=skips
            ).buckets
            if not b.is_causal
        ]
        for skips in (False, True)
    }
    # 9 queries: 4 + (9 + 6) / 2 < 4 + 9; 6 queries: a whole block of keys, none is left out
    assert sorted(apart[False]) == [((1, 5, 17), None), ((1, 6, 10), None), ((1, 9, 13), None)]
    assert sorted(apart[True]) == [((1, 5, 17), None), ((1, 6, 10), None), ((1, 9, 13), 4)]


@pytest.mark.parametrize(("name", "is_apart"), [("llama", True), ("qwen2-window", False), ("gemma2", False)])
def test_a_models_read_says_whether_its_attention_skips_half(
    name: str, is_apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "KEY_BLOCK", 1)
    called: list[int] = []
    attend = joined_attention.attend
    monkeypatch.setattr(joined_attention, "attend", lambda *a, **k: called.append(1) or attend(*a, **k))
    batch = pack(random_groups([(4, (9, 9, 3))]), device="cpu")
    with torch.no_grad():
        segments = read(make_model(name).float(), batch, tier="segments").segments
    assert segments is not None
    assert [b.apart for b in segments.buckets] == [None, 4 if is_apart else None]
    assert bool(called) == is_apart


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_the_mask_instead_of_two_parts(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AMX bfloat16 goes to torch's kernel, whose normalisers are float32."""
    monkeypatch.setattr(segments_module, "KEY_BLOCK", 1)
    monkeypatch.setattr(cpu_attention, "_has_amx", lambda: True)
    batch, inputs, segments = _inputs("pair", skips_half=True)
    half = [x.detach().to(dtype).requires_grad_() for x in inputs]
    got, _ = attention(torch.nn.Identity(), *half, None, assent_segments=segments)
    assert got.dtype == dtype
    assert torch.allclose(got.double(), _dense(batch, *inputs, {}), atol=0.03)
    assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(got.sum(), half))


def test_an_unfit_head_width_takes_the_mask_instead_of_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values narrower than keys (multi-head latent attention): torch's fused kernel has no such case."""
    monkeypatch.setattr(segments_module, "KEY_BLOCK", 1)
    batch, (q, k, v), segments = _inputs("pair", skips_half=True)
    narrow = v[..., :5]
    got, _ = attention(torch.nn.Identity(), q, k, narrow, None, assent_segments=segments)
    assert [b.apart for b in segments.buckets] == [None, 5]
    assert torch.allclose(got, _dense(batch, q, k, narrow, {}), rtol=0, atol=1e-12)


def _kernel(
    q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor, longest_q: int, longest_k: int, **more: Any
) -> Tensor:
    """What the variable-length kernel documents: causal from the bottom right, `window_size` keys to the left."""
    outputs = []
    repeat = q.shape[1] // k.shape[1]
    assert (repeat > 1) == more.get("enable_gqa", False)
    assert q_ends.dtype == k_ends.dtype == torch.int32
    for a, b, c, d in zip(q_ends[:-1], q_ends[1:], k_ends[:-1], k_ends[1:], strict=True):
        assert b - a <= longest_q
        assert d - c <= longest_k
        distance = torch.arange(b - a)[:, None] + (d - c) - (b - a) - torch.arange(d - c)
        left = more["window_size"][0]
        allowed = (distance >= 0) & ((distance <= left) if left >= 0 else True)
        keys, values = (x[c:d].repeat_interleave(repeat, dim=1).transpose(0, 1) for x in (k, v))
        scores = q[a:b].transpose(0, 1) @ keys.transpose(-1, -2) * more["scale"]
        outputs.append((scores.masked_fill(~allowed, float("-inf")).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_variable_length_kernel_gets_the_same_segments(layout: str, window: int | None) -> None:
    batch, inputs, segments = _inputs(layout)
    expected = _dense(batch, *inputs, {} if window is None else {"sliding_window": window})
    got = varlen.call(segments, *inputs, scale=8**-0.5, window=window, kernel=_kernel)
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "keywords",
    [{"dropout": 0.1}, {"is_causal": False}, {"position_bias": torch.zeros(1)}, {"attention_mask": torch.zeros(1)}],
)
def test_what_it_does_not_implement_is_refused(keywords: dict[str, Any]) -> None:
    _, inputs, segments = _inputs("pair")
    with pytest.raises(ValueError, match="cannot serve this call"):
        attention(torch.nn.Identity(), *inputs, assent_segments=segments, **keywords)
    with pytest.raises(ValueError, match="segments missing"):
        attention(torch.nn.Identity(), *inputs)


def test_the_models_own_attention_is_back_after_a_read_and_after_an_error() -> None:
    model = make_model("llama")
    own = model.config._attn_implementation
    prompt = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    arguments = {"attention_mask": (prompt > 0).long(), "max_new_tokens": 5, "do_sample": False}
    before = model.generate(prompt, **arguments)
    module = AlignmentModel(model, kind="policy")
    module(pack(random_groups(), device="cpu"), frozenset({"logprobs"}))
    assert model.config._attn_implementation == own != NAME
    assert torch.equal(model.generate(prompt, **arguments), before)
    with pytest.raises(ValueError, match="segments missing"), selected(model):
        model(prompt)
    assert model.config._attn_implementation == own
