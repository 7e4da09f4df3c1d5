"""Predicted memory is what the passes hold: by hand, by what autograd really keeps, and by torch's MemTracker."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from assent.config.online import PpoConfig
from assent.config.stages import PreferenceConfig, SftConfig
from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.models.adapters import Base, add_adapter
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from assent.models.shape import GivenLengths, ModelShape
from assent.planning.activations import Layers, Pass, adapter_parameters, chunk_bytes, kept
from assent.planning.memory import NF4_BITS, PROGRAM, Learned, predict, rows_of_a_step
from assent.planning.setup import Setup
from assent.stages.sft import SftObjective
from tests.support.architectures import make_model
from tests.unit.models.test_shape import as_json

CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4,
    "num_hidden_layers": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 128,
}  # fmt: skip
SHAPE = ModelShape.of(CONFIG)
LAYER = 64 * 64 * 2 + 2 * 32 * 64 + 3 * 64 * 192 + 2 * 64
PARAMETERS = 128 * 64 + 4 * LAYER + 64


def groups(number: int, prompt: int, *lengths: int) -> list[TokenGroup]:
    return [
        TokenGroup(tuple(range(1, prompt + 1)), tuple(TokenCompletion((7,) * length) for length in lengths))
        for _ in range(number)
    ]


def test_weights_gradients_and_moments_by_hand() -> None:
    learner = Learned(Setup("sft"), SHAPE, "cpu", scorer=False)
    assert SHAPE.num_parameters == PARAMETERS
    assert (learner.weights, learner.gradients, learner.optimiser) == (4 * PARAMETERS, 4 * PARAMETERS, 8 * PARAMETERS)
    half = Learned(Setup("sft", dtype="bfloat16"), SHAPE, "cuda", scorer=False)
    assert (half.weights, half.gradients, half.optimiser) == (2 * PARAMETERS, 2 * PARAMETERS, 4 * PARAMETERS)
    masters = Learned(Setup("sft", dtype="bfloat16", master_weights=True), SHAPE, "cuda", scorer=False)
    assert masters.optimiser == 12 * PARAMETERS
    assert Learned(Setup("sft", optim="adamw_8bit"), SHAPE, "cuda", scorer=False).optimiser == 2 * PARAMETERS


def test_an_adapter_trains_rank_times_rows_and_columns() -> None:
    setup = Setup("dpo", lora_r=8, reads_reference=True)
    one_layer = 2 * (64 + 64) + 2 * (32 + 64) + 3 * (64 + 192)  # q and o; k and v; gate, up, down
    assert adapter_parameters(SHAPE, setup) == 8 * 4 * one_layer
    learner = Learned(setup, SHAPE, "cpu", scorer=False)
    assert learner.weights == 4 * (PARAMETERS + 8 * 4 * one_layer)
    assert learner.gradients == 4 * 8 * 4 * one_layer
    some = Setup("dpo", lora_r=8, lora_targets=("q_proj", "v_proj"))
    assert adapter_parameters(SHAPE, some) == 8 * 4 * ((64 + 64) + (32 + 64))


def test_four_bits_are_for_linear_layers_alone() -> None:
    linear = 4 * (LAYER - 2 * 64)
    quantised = Learned(Setup("sft", lora_r=8, in_4bit=True, dtype="bfloat16"), SHAPE, "cuda", scorer=False)
    assert quantised.weights - quantised.adapters == linear * NF4_BITS / 8 + (PARAMETERS - linear) * 2


def test_shards_hold_their_part() -> None:
    whole, part = (
        Learned(s, SHAPE, "cuda", scorer=False) for s in (Setup("sft"), Setup("sft", processes=4, sharded=True))
    )
    assert (part.weights, part.gradients, part.optimiser) == (
        whole.weights / 4,
        whole.gradients / 4,
        whole.optimiser / 4,
    )


@pytest.mark.parametrize("lora_r", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "olmo2", "smollm3", "mistral"])
def test_what_a_pass_keeps_is_what_autograd_keeps(name: str, lora_r: int) -> None:
    """Exactly, but for index tensors, masks, and what a few rows of a mask take."""
    model: Any = make_model(name)
    shape = ModelShape.of(as_json(model.config))
    if lora_r:
        options = SftConfig(model="-", data="-", output_dir="-", lora_r=lora_r)
        model = add_adapter(model, options, base=Base("-"), seed=0)
    module = AlignmentModel(model, kind="policy", tier="segments")
    rows = groups(2, 9, 12, 8)
    batch = pack(rows, device="cpu")
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and tensor.ndim > 1:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(batch, frozenset({"logprobs"}))
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    found = sum(size for at, size in saved.items() if at not in own)
    layers = Layers(Setup("sft", lora_r=lora_r), shape, "cpu")
    assert kept(layers, Pass.of(rows, scores=False)) == pytest.approx(found, rel=0.05)


def test_the_pass_of_a_pair_by_hand() -> None:
    """Its prompt is gathered as keys once for each completion; the last MLP reads the prompt's last token and the
    completions."""
    assert Pass.of(groups(3, 10, 4, 6), scores=False) == Pass(tokens=60, keys=90, read=33, counted=30)
    assert Pass.of(groups(3, 10, 4, 6), scores=True) == Pass(tokens=60, keys=90, read=6, counted=6)


def test_a_step_is_within_a_tenth_of_torchs_memory_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step, whose optimiser has its moments from the start. The tracker reads no sparse gradients."""
    monkeypatch.setattr("assent.engine.learner.by_rows", lambda *_, **__: nullcontext())
    from transformers import LlamaForCausalLM, AutoConfig  # noqa: I001

    torch.manual_seed(0)
    model = LlamaForCausalLM(AutoConfig.for_model(**{**CONFIG, "vocab_size": 512}))
    module = AlignmentModel(model, kind="policy", tier="segments")
    options = SftConfig(model="-", data="-", output_dir="-", device="cpu", batch_size=4)
    learner = Learner(module, runtime=Runtime("cpu"), optim=options, total_steps=9)
    rows = groups(4, 100, 150)
    tracker = MemTracker()
    tracker.track_external(module, learner.optimiser)
    with tracker:
        learner.update(rows, SftObjective())
    measured = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    shape = ModelShape.of({**CONFIG, "vocab_size": 512})
    planned = predict(Setup.of("sft", options), shape, rows)
    assert planned.allocated - PROGRAM["cpu"] == pytest.approx(measured, rel=0.1)


def test_each_method_holds_its_models() -> None:
    rollouts = [GivenLengths(20, (30,) * 4, 120)] * 8
    common: dict[str, Any] = {"model": "-", "data": "-", "reward": "-", "output_dir": "-", "max_new_tokens": 30}
    of: dict[str, Any] = {}
    for name, more in {
        "separate": {}, "shared": {"trunk": "shared"}, "lora": {"lora_r": 8}, "one": {"trunk": "one", "lora_r": 8},
    }.items():  # fmt: skip
        setup = Setup.of("ppo", PpoConfig(**common, **more))
        of[name] = predict(setup, SHAPE, rollouts, reward=SHAPE).moments["later steps"]
    size = 4.0 * PARAMETERS
    assert of["separate"]["reference"] == of["separate"]["reward_model"] == size
    assert of["separate"]["critic"] == pytest.approx(3 * size, rel=0.01)  # its weights and two moments
    assert "critic" not in of["shared"]
    assert "reference" not in of["lora"]
    assert of["one"]["critic"] < 0.7 * size
    assert sum(of["one"].values()) < sum(of["lora"].values()) < sum(of["separate"].values())


def test_sampling_holds_prompts_once_and_room_for_each_completion() -> None:
    rollouts = [GivenLengths(20, (30,) * 4, 120)] * 8
    config = PpoConfig(model="-", data="-", reward="-", output_dir="-", max_new_tokens=30)
    memory = predict(Setup.of("ppo", config), SHAPE, rollouts, reward=SHAPE)
    tokens = 8 * 20 + 32 * 30
    assert memory.moments["sampling"]["kv_cache"] == (4 + 1) * tokens * 2 * 32 * 4


def test_a_small_policy_and_critic_hold_their_activations_together_on_two_cores() -> None:
    rollouts = [GivenLengths(20, (30,) * 4, 120)] * 8
    config = PpoConfig(model="-", data="-", reward="-", output_dir="-", max_new_tokens=30, micro_batch_tokens=2048)
    one, two = (
        predict(Setup.of("ppo", config, threads=threads), SHAPE, rollouts, reward=SHAPE).moments["later steps"]
        for threads in (1, 2)
    )
    assert two["activations"] > 1.8 * one["activations"]


def test_two_hands_hold_two_passes_and_their_gradients() -> None:
    rows = groups(8, 100, 100)
    one, two = (predict(Setup("sft", micro_batch_tokens=400, threads=n), SHAPE, rows) for n in (1, 2))
    early, late = one.moments["first step"], two.moments["first step"]
    assert late["activations"] == pytest.approx(2 * early["activations"])
    assert late["gradients"] == 2 * early["gradients"]  # each hand adds up its own


def test_recomputing_keeps_one_layer_and_the_layers_inputs() -> None:
    rows = groups(2, 100, 100)
    plain, again = (
        predict(Setup("sft", gradient_checkpointing=flag), SHAPE, rows).moments["later steps"] for flag in (False, True)
    )
    assert again["activations"] < 0.5 * plain["activations"]


def test_the_largest_update_has_the_longest_rows() -> None:
    rows = [GivenLengths(n, (n,), n) for n in (3, 9, 5)]
    assert [row.prompt_length for row in rows_of_a_step(rows, 2)] == [9, 5]


def test_blocks_above_32_mib_leave_no_holes() -> None:
    """A row of 65,536 tokens makes MLP tensors of 48 MiB (192 numbers of 4 bytes for each), which are mapped one by
    one; its other tensors are of 16 MiB."""
    small, large = (predict(Setup("sft"), SHAPE, [GivenLengths(n // 2, (n // 2,), n // 2)]) for n in (2048, 65536))
    share = [m.moments["later steps"]["allocator"] / m.moments["later steps"]["activations"] for m in (small, large)]
    assert share[1] < 0.8 * share[0]


def test_only_8_bit_moments_are_not_there_in_the_first_step() -> None:
    for optim, early in (("adamw", 8 * PARAMETERS), ("adamw_8bit", 0)):
        moments = predict(Setup("sft", optim=optim), SHAPE, groups(2, 9, 9), device="cuda").moments  # type: ignore[arg-type]
        assert moments["first step"].get("optimiser", 0) == early
        assert moments["later steps"]["optimiser"] > 0


def test_a_reference_of_its_own_is_there_while_it_is_read_and_gone_afterwards() -> None:
    config = PreferenceConfig(model="-", data="-", output_dir="-", reference="other")
    moments = predict(Setup.of("dpo", config), SHAPE, groups(4, 10, 5, 5)).moments
    assert moments["reading"]["reference"] == 4 * PARAMETERS
    assert "reference" not in moments["later steps"]


def test_logits_are_held_by_the_chunk() -> None:
    large = ModelShape.of({**CONFIG, "vocab_size": 2**17})
    assert chunk_bytes(large, "cpu") == 64 * 4 * 2**17  # fewer rows would lose more than the memory is worth
    assert chunk_bytes(SHAPE, "cpu") == 8 * 2**20
