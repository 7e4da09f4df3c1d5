"""The chunked head: exact values and gradients, and never more logits than a chunk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from assent.models import head as head_module
from assent.models.head import Logits, is_plain_linear, log_probabilities

SETTINGS = [Logits(), Logits(scale=0.5, temperature=0.7), Logits(scale=1.5, softcap=2.0, temperature=1.3)]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "CPU_CHUNK_BYTES", 4 * 11 * 3)
    monkeypatch.setattr(head_module, "MIN_CHUNK_TOKENS", 1)


def _inputs(*, bias: bool, number: int = 8, dtype: torch.dtype = torch.float64) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(5, 11, bias=bias, dtype=dtype)
    hidden = torch.randn(number, 5, dtype=dtype, requires_grad=True)
    return head, hidden, torch.randint(0, 11, (number,))


def _direct(head: nn.Module, hidden: Tensor, targets: Tensor, logits: Logits) -> tuple[Tensor, Tensor]:
    z = head(hidden) * logits.scale
    if logits.softcap is not None:
        z = logits.softcap * torch.tanh(z / logits.softcap)
    distribution = torch.distributions.Categorical(logits=z / logits.temperature, validate_args=False)
    return distribution.log_prob(targets), distribution.entropy()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("logits", SETTINGS)
@pytest.mark.parametrize("number", [0, 1, 8])
def test_values_and_gradients_equal_the_direct_computation(logits: Logits, bias: bool, number: int) -> None:
    head, hidden, targets = _inputs(bias=bias, number=number)
    weights = torch.randn(2, number, dtype=torch.float64)
    leaves = [hidden, *head.parameters()]
    expected = torch.stack(_direct(head, hidden, targets, logits))
    logp, entropy = log_probabilities(head, hidden, targets, logits=logits, want_entropy=True)
    assert entropy is not None
    got = torch.stack([logp, entropy])
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad((got * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("logits", SETTINGS)
@pytest.mark.parametrize("want_entropy", [False, True])
def test_the_heads_gradient_is_that_of_differences(logits: Logits, want_entropy: bool) -> None:
    head, hidden, targets = _inputs(bias=True, number=5)

    def function(h: Tensor, w: Tensor, b: Tensor) -> Any:
        out = head_module._LinearLogProbs.apply(h, w, b, targets, logits, want_entropy)
        return out if want_entropy else out[0]

    assert torch.autograd.gradcheck(function, (hidden, head.weight, head.bias))


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.largest = max([self.largest, *sizes])
        return out


@pytest.mark.parametrize("as_module", [False, True])
def test_no_tensor_is_larger_than_a_chunk_of_logits(as_module: bool) -> None:
    head, hidden, targets = _inputs(bias=False, number=40)
    if as_module:
        head.register_forward_hook(lambda *_: None)
    with _Largest() as seen:
        logp, _ = log_probabilities(head, hidden, targets, logits=Logits())
        logp.sum().backward()
    assert seen.largest == 40 * 5  # the hidden states; all logits would be 40 · 11


def test_a_head_that_is_more_than_its_weight_is_called() -> None:
    head, hidden, targets = _inputs(bias=False)
    assert is_plain_linear(head)
    head.register_forward_hook(lambda module, inputs, output: output * 2)  # an adapter, in effect
    assert not is_plain_linear(head)
    logp, entropy = log_probabilities(head, hidden, targets, logits=SETTINGS[2], want_entropy=True)
    expected, expected_entropy = _direct(head, hidden, targets, SETTINGS[2])
    assert torch.allclose(logp, expected)
    assert entropy is not None
    assert torch.allclose(entropy, expected_entropy)
    leaves = [hidden, head.weight]
    for a, b in zip(torch.autograd.grad(logp.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True):
        assert torch.allclose(a, b)


def test_autocast_multiplies_in_bfloat16_and_normalises_in_float32() -> None:
    head, hidden, targets = _inputs(bias=True, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp, _ = log_probabilities(head, hidden, targets, logits=Logits())
        z = head(hidden)
        expected = z.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert z.dtype == torch.bfloat16
    assert logp.dtype == torch.float32
    assert torch.equal(logp, expected)
    logp.sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.float32


def test_frozen_weights_get_no_gradient() -> None:
    head, hidden, targets = _inputs(bias=True)
    head.requires_grad_(False)
    log_probabilities(head, hidden, targets, logits=Logits())[0].sum().backward()
    assert hidden.grad is not None
    assert head.weight.grad is None
    assert head.bias.grad is None
