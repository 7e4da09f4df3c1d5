"""What a read must not depend on: micro-batches, order, sharing, checkpointing, dropout, what else is in the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils import _pytree as pytree

from assent.errors import ModelError
from assent.models import tiers
from assent.models.batch import Outputs, TokenGroup
from assent.models.head import Logits
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from assent.models.segments import make_segments
from assent.models.shape import split_by_budget
from tests.support.architectures import (
    assert_same_gradients,
    gradients,
    make_model,
    plain_logprobs,
    random_groups,
    weighted,
)

LOGPROBS = frozenset({"logprobs"})
SCORER = frozenset({"scores", "values", "last_values"})
TIERS = ("segments", "mask", "padded")


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("max_tokens", [1, 40, 10_000])
def test_micro_batches_and_their_order_change_nothing(tier: Any, max_tokens: int) -> None:
    module = AlignmentModel(make_model("llama"), kind="policy", tier=tier)
    groups = random_groups()

    def sums(indices: list[int]) -> torch.Tensor:
        batch = pack([groups[i] for i in indices], device="cpu")
        return batch.sum_by_completion(module(batch, LOGPROBS).logprobs)

    # A loss that is not linear, per completion, so that a wrong sum or a swapped one changes the gradient.
    whole = sums(list(range(len(groups))))
    expected = gradients(module, (whole**2).sum())
    bins = split_by_budget(groups, max_tokens=max_tokens, shared=tier != "padded")
    module.zero_grad()
    parts: dict[int, torch.Tensor] = {}
    for indices in reversed(bins):
        part = sums(indices)
        (part**2).sum().backward()
        counts = [len(groups[i].completions) for i in indices]
        parts.update(zip(indices, part.detach().split(counts), strict=True))
    assert torch.allclose(torch.cat([parts[i] for i in range(len(groups))]), whole, rtol=0, atol=1e-5)
    assert_same_gradients({n: p.grad for n, p in module.named_parameters() if p.grad is not None}, expected)


def test_sharing_a_prompt_equals_repeating_it() -> None:
    module = AlignmentModel(make_model("mistral"), kind="policy")
    shared = random_groups()
    repeated = [TokenGroup(g.prompt_ids, (c,)) for g in shared for c in g.completions]
    results = [module(pack(groups, device="cpu"), LOGPROBS).logprobs for groups in (shared, repeated)]
    assert torch.allclose(*results, rtol=0, atol=1e-5)
    assert_same_gradients(*(gradients(module, weighted(r)) for r in results))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt-oss", "falcon-rotary"])
def test_activation_checkpointing_gives_the_same_gradients(name: str) -> None:
    model = make_model(name)
    module = AlignmentModel(model, kind="policy").train()
    batch = pack(random_groups(), device="cpu")
    expected = gradients(module, weighted(module(batch, LOGPROBS).logprobs))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
    first = next(m for m in layers[0].modules() if isinstance(m, torch.nn.LayerNorm) or "Norm" in type(m).__name__)
    first.register_forward_hook(count)
    logprobs = module(batch, LOGPROBS).logprobs
    assert_same_gradients(gradients(module, weighted(logprobs)), expected)
    assert calls == 2  # once forward, once again in backward: the activations really were recomputed


def test_dropout_is_off_in_training_and_the_configuration_is_left_alone() -> None:
    options = {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}
    model = make_model("gpt2", **options)
    module = AlignmentModel(model, kind="policy").train()
    groups = random_groups()
    got = module(pack(groups, device="cpu"), LOGPROBS).logprobs
    assert torch.allclose(got, plain_logprobs(model.eval(), groups), rtol=0, atol=1e-5)
    assert model.config.attn_pdrop == 0.5


def test_functional_dropout_is_off_too() -> None:
    model = make_model("opt", dropout=0.5, attention_dropout=0.5, layerdrop=0.5)
    module = AlignmentModel(model, kind="policy").train()
    groups = random_groups()
    got = module(pack(groups, device="cpu"), LOGPROBS).logprobs
    assert torch.allclose(got, plain_logprobs(model.eval(), groups), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tier", TIERS)
def test_an_empty_batch_gives_zero_gradients_to_every_weight(tier: Any) -> None:
    for kind, want in (("policy", LOGPROBS), ("scorer", SCORER)):
        module = AlignmentModel(make_model("llama", kind=kind), kind=kind, tier=tier)  # type: ignore[arg-type]
        outputs = module(pack([], device="cpu"), want)
        made = [getattr(outputs, name) for name in want]
        assert all(value.shape[0] == 0 for value in made)
        found = gradients(module, sum(value.sum() for value in made))
        assert found.keys() == dict(module.named_parameters()).keys()
        assert all(not g.any() for g in found.values())


@pytest.mark.parametrize("tier", TIERS)
def test_temperature_and_entropy_are_those_of_plain_logits(tier: Any) -> None:
    model = make_model("llama")
    groups = random_groups(holes=False)
    module = AlignmentModel(model, kind="policy", tier=tier, temperature=0.6)
    outputs = module(pack(groups, device="cpu"), frozenset({"logprobs", "entropy"}))
    assert torch.allclose(outputs.logprobs, plain_logprobs(model, groups, temperature=0.6), rtol=0, atol=1e-5)
    group = groups[0]
    ids = torch.tensor([group.prompt_ids + group.completions[1].ids])
    p = (model(ids).logits[0, len(group.prompt_ids) - 1 : -1] / 0.6).softmax(-1)
    first = len(group.completions[0].ids)
    assert torch.allclose(outputs.entropy[first : first + len(p)], -(p * p.log()).sum(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tier", TIERS)
def test_scores_and_values_are_the_heads_output_at_their_positions_plus_the_bias(tier: Any) -> None:
    model = make_model("llama", kind="scorer")
    model.config.assent_score_bias = 1.25
    groups = random_groups()
    module = AlignmentModel(model, kind="scorer", tier=tier)
    outputs = module(pack(groups, device="cpu"), SCORER)
    values, ends = [], []
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([group.prompt_ids + completion.ids])
            scores = model.score(model.model(ids).last_hidden_state)[0, :, 0] + 1.25
            before = scores[len(group.prompt_ids) - 1 : -1]
            values.append(before[torch.tensor(completion.mask or (True,) * len(before))])
            ends.append(scores[-1])
    assert torch.allclose(outputs.values, torch.cat(values), rtol=0, atol=1e-5)
    assert torch.allclose(outputs.last_values, torch.stack(ends), rtol=0, atol=1e-5)
    assert torch.equal(outputs.scores, outputs.last_values)


def test_a_completion_that_ends_with_the_pad_id_is_scored_at_its_end() -> None:
    model = make_model("llama", kind="scorer")
    module = AlignmentModel(model, kind="scorer")
    groups = random_groups(((5, (4,)),), holes=False)
    padded = TokenGroup(groups[0].prompt_ids, (type(groups[0].completions[0])((*groups[0].completions[0].ids, 0)),))
    score = module(pack([padded], device="cpu"), SCORER).scores
    ids = torch.tensor([padded.prompt_ids + padded.completions[0].ids])
    assert torch.allclose(score, model.score(model.model(ids).last_hidden_state)[0, -1], rtol=0, atol=1e-5)


def test_several_heads_give_a_column_each() -> None:
    model = make_model("llama", kind="scorer", num_labels=3)
    model.config.assent_score_bias = [1.0, 2.0, 3.0]
    groups = random_groups()
    scores = AlignmentModel(model, kind="scorer")(pack(groups, device="cpu"), frozenset({"scores"})).scores
    ids = torch.tensor([groups[0].prompt_ids + groups[0].completions[0].ids])
    assert scores.shape == (8, 3)
    assert torch.allclose(scores[0], model(ids).logits[0] + torch.tensor([1.0, 2.0, 3.0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tier", TIERS)
def test_a_head_that_the_configuration_does_not_explain_is_read_through_the_whole_model(
    tier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Logits, "of", lambda config, temperature=1.0: Logits(temperature=temperature))
    model = make_model("cohere")  # its logits are scaled by 1/4
    module = AlignmentModel(model, kind="policy", tier=tier, temperature=0.7)
    assert not module.has_chunked_head
    groups = random_groups()
    logprobs = module(pack(groups, device="cpu"), LOGPROBS).logprobs
    assert torch.allclose(logprobs, plain_logprobs(model, groups, temperature=0.7), rtol=0, atol=1e-5)


def test_rows_beyond_a_fixed_rotary_regime_are_refused() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    module = AlignmentModel(make_model("llama", rope_parameters=rope, max_position_embeddings=24), kind="policy")
    assert module.longest == 24
    module(pack(random_groups(((14, (10, 3)),)), device="cpu"), LOGPROBS)
    with pytest.raises(ModelError, match="at most 24"):
        module(pack(random_groups(((14, (3, 11)),)), device="cpu"), LOGPROBS)


@pytest.mark.parametrize(
    ("calls", "windows", "reason"),
    [
        (2, [None, None], None),
        (1, [None], "called 1 times by 2 layers"),
        (4, [None] * 4, "called 4 times by 2 layers"),
        (2, [None, 8], "0 layers have a sliding window, but 1 passed one"),
    ],
)
def test_attention_must_be_asked_once_per_layer_with_the_declared_windows(
    calls: int, windows: list[int | None], reason: str | None
) -> None:
    segments = make_segments([(0, 3)], [(3, 5)], num_tokens=5, device="cpu")
    segments.calls, segments.windows = calls, windows
    found = tiers.miscounted(make_model("llama"), segments)
    assert found is None if reason is None else reason in str(found)


def test_amiscounted_model_gets_the_next_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "miscounted", lambda model, segments: "miscounted")
    module = AlignmentModel(make_model("llama"), kind="policy")
    assert module.tier == "mask"
    assert "segments: miscounted" in module.tier_reason


def test_a_tier_that_gives_other_numbers_is_refused_with_the_difference() -> None:
    with pytest.raises(ModelError, match=r"got: +mask: "):
        AlignmentModel(make_model("bloom"), kind="policy", tier="mask")


def test_an_output_that_the_kind_does_not_have_is_refused() -> None:
    module = AlignmentModel(make_model("llama"), kind="policy")
    with pytest.raises(ValueError, match=r"not \['scores'\]"):
        module(pack(random_groups(), device="cpu"), frozenset({"scores"}))


def test_wrappers_find_the_tensors_of_outputs() -> None:
    one, two = torch.ones(1), torch.zeros(2)
    assert [t.shape[0] for t in pytree.tree_leaves(Outputs(logprobs=one, scores=two)) if t is not None] == [1, 2]


def test_adapters_on_the_trunk_and_on_the_head_are_read_and_trained() -> None:
    model = make_model("llama")
    config = LoraConfig(
        r=2, target_modules=["q_proj", "down_proj", "lm_head"], lora_dropout=0.5, init_lora_weights=False
    )
    wrapped = get_peft_model(model, config)
    module = AlignmentModel(wrapped, kind="policy").train()
    assert module.tier == "segments"
    groups = random_groups()
    expected = plain_logprobs(wrapped, groups)
    got = module(pack(groups, device="cpu"), LOGPROBS).logprobs
    assert torch.allclose(got, expected, rtol=0, atol=1e-5)
    assert_same_gradients(gradients(module, weighted(got)), gradients(module, weighted(expected)))
    with wrapped.disable_adapter():
        reference = module(pack(groups, device="cpu"), LOGPROBS).logprobs
    assert not torch.allclose(reference, got, atol=1e-2)
