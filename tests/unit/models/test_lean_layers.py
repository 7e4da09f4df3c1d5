"""RMSNorms and gated MLPs of our own: which modules become one, and that only rounding and memory differ."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from assent.models.lean_layers import LeanGatedMLP, LeanRMSNorm, install
from tests.support.architectures import ARCHITECTURES, VOCABULARY, assert_same_gradients, gradients, make_model

BOTH = {"llama", "llama-one-key-head", "qwen2", "qwen2-window", "qwen2-moe", "qwen3", "mistral", "olmo2", "olmo3"}
NORMS = BOTH | {"smollm3", "granite", "phi3", "mixtral", "olmoe", "qwen3-moe", "gpt-oss", "mamba"}
MLPS = BOTH | {"smollm3", "granite", "cohere", "qwen3-next"}
EPSILON = 1e-3
"""Large enough that leaving it out would show."""


def learned(model: nn.Module, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model(input_ids=ids, use_cache=False).logits.float()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return logits.detach(), gradients(model, loss)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_gives_and_learns_the_same(name: str) -> None:
    model = make_model(name).float()
    ids = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
    logits, plain = learned(model, ids)
    names = [type(part).__name__ for part in model.modules()]
    install(model)
    install(model)
    others, lean = learned(model, ids)
    torch.testing.assert_close(others, logits, rtol=1e-5, atol=2e-6)
    assert_same_gradients(lean, plain)
    parts = list(model.modules())
    assert [type(part).__name__ for part in parts] == names
    assert any(isinstance(part, LeanRMSNorm) for part in parts) == (name in NORMS)
    assert any(isinstance(part, LeanGatedMLP) for part in parts) == (name in MLPS)


def norm_of(rows: Tensor, weight: Tensor) -> Tensor:
    return weight * rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + EPSILON)


def lean_norm(width: int) -> LlamaRMSNorm:
    norm = LlamaRMSNorm(width, EPSILON)
    norm.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    install(norm)
    assert isinstance(norm, LeanRMSNorm)
    return norm


@pytest.mark.parametrize(("shape", "trained"), [((5, 24), "both"), ((1, 7, 24), "both"), ((2, 3, 5, 24), "both"),
                                                ((5, 24), "rows"), ((5, 24), "weight"), ((0, 24), "both"),
                                                ((24,), "both")])  # fmt: skip
def test_a_norm_and_its_gradients_are_those_of_float64(shape: tuple[int, ...], trained: str) -> None:
    draw = torch.Generator().manual_seed(0)
    norm, rows = lean_norm(24), torch.randn(shape, generator=draw)
    grad = torch.randn(*shape[:-1], 48, generator=draw)[..., ::2]
    rows.requires_grad_(trained != "weight")
    norm.weight.requires_grad_(trained != "rows")
    leaves = [leaf for leaf in (rows, norm.weight) if leaf.requires_grad]
    y = norm(rows)
    found = [y, *torch.autograd.grad(y, leaves, grad)]
    exact = [leaf.detach().double().requires_grad_(leaf.requires_grad) for leaf in (rows, norm.weight)]
    wanted_y = norm_of(*exact)
    wanted = [wanted_y, *torch.autograd.grad(wanted_y, [leaf for leaf in exact if leaf.requires_grad], grad.double())]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(norm(rows), y)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_types_are_left_to_the_class_that_it_was(kind: torch.dtype) -> None:
    norm, rows = lean_norm(24).to(kind), torch.randn(5, 24, dtype=kind)
    plain = LlamaRMSNorm(24, EPSILON)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm(rows), plain.to(kind)(rows))


class FromOne(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return norm_of(hidden_states, 1.0 + self.weight)


class Clamped(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        down_proj = self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=7.0)) * self.up_proj(x))
        return down_proj


def without_weight() -> nn.Module:
    norm = LlamaRMSNorm(24, EPSILON)
    norm.weight = None
    return norm


def with_a_forward_of_its_own() -> nn.Module:
    norm = LlamaRMSNorm(24, EPSILON)
    norm.forward = lambda rows: rows
    return norm


CONFIG = LlamaConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)


def with_another_activation() -> nn.Module:
    mlp = LlamaMLP(CONFIG)
    mlp.act_fn = nn.GELU()
    return mlp


@pytest.mark.parametrize(
    "make",
    [lambda: FromOne(24, EPSILON), lambda: nn.LayerNorm(24, EPSILON, bias=False), without_weight,
     with_a_forward_of_its_own, lambda: Clamped(CONFIG),
     with_another_activation],
)  # fmt: skip
def test_what_computes_something_else_stays_though_its_like_is_replaced(make: Callable[[], nn.Module]) -> None:
    module = make()
    install(nn.ModuleList([LlamaRMSNorm(24, EPSILON), LlamaMLP(CONFIG), module]))
    assert not isinstance(module, (LeanRMSNorm, LeanGatedMLP))


def test_copies_and_pickles_are_as_lean() -> None:
    model = make_model("llama").float()
    install(model)
    ids = torch.arange(3, 12)[None]
    expected = model(input_ids=ids).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(part) for part in other.modules()] == [type(part) for part in model.modules()]
        assert torch.equal(other(input_ids=ids).logits, expected)


def test_shapes_can_be_told_without_numbers() -> None:
    model = make_model("llama")
    install(model)
    assert model.to("meta")(input_ids=torch.zeros(1, 4, dtype=torch.long, device="meta")).logits.shape == (
        1,
        4,
        VOCABULARY,
    )


def mlp_of(**more: object) -> nn.Module:
    mlp: nn.Module = make_model("llama", **more).model.layers[0].mlp
    return mlp


def of_float64(mlp: nn.Module, x: Tensor) -> Tensor:
    gate, up, down = ((part.weight.double(), part.bias) for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(rows, weight, None if bias is None else bias.double())

    gated = product(x, *gate)
    return product(gated * torch.sigmoid(gated) * product(x, *up), *down)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("frozen", [(), ("down_proj.weight",), ("gate_proj.weight", "up_proj.weight")])
def test_an_mlps_gradients_are_those_of_float64(has_bias: bool, frozen: tuple[str, ...]) -> None:
    mlp = mlp_of(mlp_bias=has_bias).float()
    install(mlp)
    assert isinstance(mlp, LeanGatedMLP)
    for name in frozen:
        mlp.get_parameter(name).requires_grad_(False)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    grad = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1))
    leaves = [x, *(p for p in mlp.parameters() if p.requires_grad)]
    y = mlp(x)
    found = [y, *torch.autograd.grad(y, leaves, grad)]
    exact = of_float64(mlp, x.double())
    for one, other in zip(found, [exact, *torch.autograd.grad(exact, leaves, grad.double())], strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-5, atol=1e-5)


def kept(module: nn.Module, x: Tensor) -> int:
    """Numbers that autograd holds for the backward pass, parameters apart; a tensor held twice counts once."""
    sizes: dict[int, int] = {}
    held: list[Tensor] = []
    own = {p.data_ptr() for p in module.parameters()} | {x.data_ptr()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = tensor.numel()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x).sum()
    return sum(sizes.values())


def test_less_is_kept_for_the_backward_pass() -> None:
    x, mlp, norm = torch.randn(10, 32, requires_grad=True), mlp_of().float(), LlamaRMSNorm(32, EPSILON)
    before = kept(mlp, x), kept(norm, x)
    install(mlp)
    install(norm)
    assert before[0] == 4 * 10 * 48
    assert kept(mlp, x) == 2 * 10 * 48
    assert before[1] >= 10 * 32
    assert kept(norm, x) == 10


def test_an_adapter_of_the_last_product_sees_what_it_is_given() -> None:
    class Twice(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2.0 * super().forward(input)

    mlp = mlp_of().float()
    install(mlp)
    x = torch.randn(3, 32)
    plain = mlp(x)
    mlp.down_proj.__class__ = Twice
    torch.testing.assert_close(mlp(x), 2.0 * plain)
    hooked = mlp_of().float()
    install(hooked)
    hooked.down_proj.register_forward_hook(lambda _, args, output: output + 1.0)
    torch.testing.assert_close(hooked(x), plain + 1.0)


def test_under_autocast_values_and_gradients_are_autocasts() -> None:
    plain = mlp_of().float()
    lean = copy.deepcopy(plain)
    install(lean)
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for mlp in (plain, lean):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = mlp(x)
        found.append((y, gradients(mlp, y.float().square().sum())))
    (y, plain_grads), (other, lean_grads) = found
    assert other.dtype == torch.bfloat16
    assert torch.equal(other, y)
    assert {name: grad.dtype for name, grad in lean_grads.items()} == dict.fromkeys(plain_grads, torch.float32)
    assert_same_gradients(lean_grads, plain_grads, tolerance=1e-2)
