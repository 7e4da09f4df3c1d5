"""The Learner on a real transformers model: budgets, recomputation, precision, scorers."""

from __future__ import annotations

import pytest
import torch

from assent.engine.learner import Learner
from assent.engine.references import Reference
from assent.engine.runtime import Runtime
from assent.models.loading import fingerprint
from tests.support.engine import Nll, Settings, make_groups
from tests.support.models import tiny_llama, tiny_module

GROUPS = make_groups(6)


def update(**options: object) -> tuple[dict[str, float], Learner]:
    precision = str(options.pop("mixed_precision", "no"))
    learner = Learner(
        tiny_module(),
        runtime=Runtime("cpu", mixed_precision=precision),
        optim=Settings(**options),  # type: ignore[arg-type]
        total_steps=10,
    )
    return learner.update(GROUPS, Nll()), learner


def assert_same_update(ours: Learner, theirs: Learner, *, tolerance: float) -> None:
    for (name, one), two in zip(ours.module.named_parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance * float(two.detach().abs().max()), msg=name)


@pytest.mark.parametrize("tokens", [1, 60])
def test_update_does_not_depend_on_the_budget(tokens: int) -> None:
    # With a large epsilon AdamW's first step is proportional to the gradient, instead of to its sign.
    whole, expected = update(micro_batch_tokens=10_000, adam_epsilon=1.0)
    cut, found = update(micro_batch_tokens=tokens, adam_epsilon=1.0)
    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    assert_same_update(found, expected, tolerance=1e-6)


def test_recomputing_activations_changes_nothing() -> None:
    plain, expected = update(adam_epsilon=1.0)
    recomputed, found = update(gradient_checkpointing=True, adam_epsilon=1.0)
    assert recomputed["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-6)
    assert_same_update(found, expected, tolerance=1e-6)
    assert not found.module.training  # sampling from it afterwards uses its cache


def test_recomputation_really_happens() -> None:
    _, learner = update(gradient_checkpointing=True)
    layer = learner.module.hf.model.layers[0].self_attn
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    layer.register_forward_pre_hook(count)
    micro_batches = learner.update(GROUPS, Nll())["perf/micro_batches"]
    assert calls == 2 * micro_batches


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    full, _ = update()
    half, learner = update(mixed_precision="bf16")
    assert half["loss"] != full["loss"]
    assert half["loss"] == pytest.approx(full["loss"], rel=1e-2)
    assert {p.dtype for p in learner.module.parameters()} == {torch.float32}
    logprobs = learner.read(GROUPS, want={"logprobs"}).logprobs
    assert logprobs is not None
    assert logprobs.dtype == torch.float32


def test_scorers_give_scores_values_and_last_values_in_order() -> None:
    reference = Reference(tiny_module(kind="scorer"), Runtime("cpu"), 40)
    cut = reference.read(GROUPS, want={"scores", "values", "last_values"})
    whole = Reference(tiny_module(kind="scorer"), Runtime("cpu"), 10_000).read(
        GROUPS, want={"scores", "values", "last_values"}
    )
    assert cut.scores is not None
    assert cut.scores.shape == (12,)
    for name in ("scores", "values", "last_values"):
        torch.testing.assert_close(getattr(cut, name), getattr(whole, name), rtol=0, atol=1e-5)
    assert torch.equal(cut.scores, cut.last_values)


def test_a_reference_is_frozen_and_fingerprints_agree() -> None:
    _, learner = update()
    reference = Reference(tiny_module(), Runtime("cpu"))
    assert not any(p.requires_grad for p in reference.module.parameters())
    assert reference.fingerprint() == fingerprint(tiny_llama()) != learner.fingerprint()
