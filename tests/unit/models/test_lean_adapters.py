"""LoRA as one function: where it is used, and that only rounding differs from PEFT's layer."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from assent.models import lean_adapters, products
from assent.models.lean_layers import install
from tests.support.architectures import VOCABULARY, assert_same_gradients, gradients, make_model

IDS = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))


def adapted(name: str = "llama", **options: Any) -> Any:
    """A model with an adapter that has been trained: both of its matrices differ from zero."""
    model: Any = get_peft_model(make_model(name).float(), LoraConfig(r=4, target_modules="all-linear", **options))
    draw = torch.Generator().manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if ".lora_B." in parameter_name:
            parameter.data.normal_(std=0.1, generator=draw)
    return model


def learned(model: Any, *, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        logits = model(input_ids=IDS, use_cache=False).logits.float()
    loss = (logits.log_softmax(-1)[:, :-1].gather(-1, IDS[:, 1:, None])).mean()
    return logits.detach(), gradients(model, loss)


def calls(monkeypatch: pytest.MonkeyPatch, model: Any) -> int:
    """How many products with an adapter the model's forward pass computes as one function."""
    count, real = [0], lean_adapters.product

    def counted(*given: Any) -> Any:
        count[0] += 1
        return real(*given)

    monkeypatch.setattr("assent.models.lean_adapters.product", counted)
    monkeypatch.setattr("assent.models.lean_layers.lora_product", counted)
    model(input_ids=IDS, use_cache=False)
    return count[0]


def lean(model: Any) -> Any:
    products.install(model)
    install(model)
    return model


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "phi3", "cohere"])
def test_a_model_gives_and_learns_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(name)
    logits, plain = learned(model)
    others, found = learned(lean(model))
    torch.testing.assert_close(others, logits, rtol=1e-5, atol=2e-6)
    assert_same_gradients(found, plain)
    layers = sum(lean_adapters.is_lora(part) or isinstance(part, lean_adapters.LeanLora) for part in model.modules())
    assert calls(monkeypatch, model) == layers > 0


def test_gradients_are_those_of_float64() -> None:
    model = lean(adapted())
    _, found = learned(model)
    _, exact = learned(adapted().double())
    assert_same_gradients(found, {name: grad.float() for name, grad in exact.items()})


def test_under_autocast_it_is_as_far_from_float32_as_pefts() -> None:
    model = adapted()
    exact = learned(model)[1]
    plain = learned(model, autocast=True)[1]
    found = learned(lean(model), autocast=True)[1]
    theirs, ours = (
        sum((grads[name] - grad).square().sum() for name, grad in exact.items()) for grads in (plain, found)
    )
    assert 0.0 < ours < 1.5 * theirs


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}, {"lora_dropout": 0.1}])
def test_other_adapters_are_left_to_peft(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(**options).eval()
    logits = model(input_ids=IDS, use_cache=False).logits
    model = lean(model)
    torch.testing.assert_close(model(input_ids=IDS, use_cache=False).logits, logits, rtol=1e-5, atol=2e-6)
    if "lora_dropout" not in options:
        assert calls(monkeypatch, model) == 0


def test_switched_off_or_merged_adapters_change_nothing_or_are_in_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lean(adapted())
    on = model(input_ids=IDS, use_cache=False).logits
    with model.disable_adapter():
        off = model(input_ids=IDS, use_cache=False).logits
        assert calls(monkeypatch, model) == 0
    base = make_model("llama").float()
    torch.testing.assert_close(off, base(input_ids=IDS, use_cache=False).logits, rtol=1e-5, atol=2e-6)
    model.merge_adapter()
    torch.testing.assert_close(model(input_ids=IDS, use_cache=False).logits, on, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(model(input_ids=IDS, use_cache=False).logits, on, rtol=1e-4, atol=1e-5)


def test_two_adapters_at_once_are_left_to_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lean(adapted())
    model.add_adapter("other", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    install(model)
    model.base_model.set_adapter(["default", "other"])
    assert calls(monkeypatch, model) == 0


def part(model: Any, end: str) -> Any:
    return next(found for name, found in model.named_modules() if name.endswith(end))


@pytest.mark.parametrize("where", ["mlp.down_proj", "mlp.act_fn", "mlp.down_proj.lora_dropout.default"])
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_hooks_of_the_parts_are_called(where: str, before: bool) -> None:
    logits = []
    for model in (adapted(), lean(adapted())):
        module = part(model, f"layers.0.{where}")
        if before:
            module.register_forward_pre_hook(lambda _, given: (given[0] * 1.5,))
        else:
            module.register_forward_hook(lambda _, given, found: found * 1.5)
        logits.append(model(input_ids=IDS, use_cache=False).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=2e-6)
    assert not torch.allclose(logits[1], adapted()(input_ids=IDS, use_cache=False).logits, atol=1e-3)


def test_a_hook_of_a_plain_models_activation_is_called() -> None:
    logits = []
    for model in (make_model("llama").float(), lean(make_model("llama").float())):
        part(model, "layers.0.mlp.act_fn").register_forward_hook(lambda _, given, found: found * 1.5)
        logits.append(model(input_ids=IDS, use_cache=False).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=2e-6)


@torch.no_grad()
def test_each_row_may_name_its_adapter() -> None:
    """PEFT hands the names to its layers through hooks."""
    names = ["__base__", "default"]
    plain, found = (
        model.eval()(input_ids=IDS, use_cache=False, adapter_names=names).logits
        for model in (adapted(), lean(adapted()))
    )
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=2e-6)


@torch.inference_mode()
def test_autocast_in_inference_mode() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        plain, found = (model(input_ids=IDS, use_cache=False).logits for model in (adapted(), lean(adapted())))
    torch.testing.assert_close(found, plain, rtol=0.0, atol=0.06)
