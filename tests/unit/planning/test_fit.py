"""Whether a stage fits, what to change if it does not, and the same as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from assent.models.shape import GivenLengths, ModelShape
from assent.planning.devices import Device, device
from assent.planning.fit import CHECKPOINTS, RANK, fit
from assent.planning.memory import predict
from assent.planning.needs_text import lines_of_fit, lines_of_limits, lines_of_time
from assent.planning.setup import Setup
from assent.planning.time import Duration

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "vocab_size": 128256,
}  # fmt: skip
SHAPE = ModelShape.of(LLAMA_8B)
ROWS = [GivenLengths(200, (300, 300), 600)] * 16
BF16 = Setup("dpo", dtype="bfloat16", micro_batch_tokens=2048, reads_reference=True)


def test_all_weights_of_8_billion_need_more_than_a_40_gb_device_and_an_adapter_does_not() -> None:
    """Weights, gradients and two moments in bfloat16 take 8 bytes for each of 8.03 billion parameters."""
    found = fit(BF16, SHAPE, ROWS, device("a100-40gb"))
    held = found.planned.memory.components
    assert held["weights"] + held["gradients"] + held["optimiser"] == 8 * 8_030_261_248
    assert not found.planned.fits
    by_name = {way.name: way for way in found.ways}
    assert by_name["LoRA"].fits
    assert by_name["QLoRA"].memory.peak < by_name["LoRA"].memory.peak
    assert found.advice == f"--lora-r {RANK}"


def test_eight_devices_hold_an_eighth_of_the_states_each() -> None:
    found = fit(BF16, SHAPE, ROWS, device("8xa100-80gb"))
    sharded = {way.name: way for way in found.ways}["sharded over 8"]
    assert sharded.memory.moments["later steps"]["weights"] == 2 * 8_030_261_248 / 8
    assert sharded.fits


def test_the_largest_batch_fits_and_twice_as_much_does_not() -> None:
    one = replace(BF16, lora_r=16)
    target = device("h100-80gb")
    budget = fit(one, SHAPE, ROWS * 400, target).largest_budget
    assert budget >= 2048
    for factor, fits in ((1, True), (2, False)):
        memory = predict(replace(one, micro_batch_tokens=factor * budget), SHAPE, ROWS * 400, device="cuda")
        assert (memory.peak <= target.memory_bytes) == fits


def test_where_only_the_longest_row_fits_its_tokens_are_the_budget() -> None:
    """No budget divides a row, so the last one to try is its length, and not the power of two above it."""
    one, row = replace(BF16, lora_r=16), 200 + 600
    rows = [*ROWS, *[GivenLengths(50, (75, 75), 150)] * 16]
    least = predict(replace(one, micro_batch_tokens=row), SHAPE, rows, device="cuda").peak
    assert least < predict(replace(one, micro_batch_tokens=1024), SHAPE, rows, device="cuda").peak
    assert fit(one, SHAPE, rows, Device("small", "cuda", least)).largest_budget == row
    assert fit(one, SHAPE, rows, Device("smaller", "cuda", least - 1)).largest_budget == 0


def test_an_adapters_run_keeps_no_copy_of_its_base_on_disk() -> None:
    found = fit(replace(BF16, lora_r=16), SHAPE, ROWS, device("a100-80gb"))
    held = found.planned.memory.moments["later steps"]
    adapter = 41_943_040  # 16 * (in + out) of seven layers in each of 32 blocks
    assert held["optimiser"] == 8 * adapter
    assert found.checkpoint_bytes == CHECKPOINTS * 12 * adapter + 4 * adapter
    assert found.host_bytes > 2 * 2 * 8_030_261_248  # the base is still loaded


def test_checkpoints_hold_weights_and_moments_twice_and_the_result_once() -> None:
    found = fit(BF16, SHAPE, ROWS, device("a100-80gb"))
    size = 2 * 8_030_261_248
    assert found.checkpoint_bytes == CHECKPOINTS * 3 * size + size


def test_checkpoints_hold_the_critic_and_its_moments_too() -> None:
    """A critic on a trunk of its own is the reward model's trunk and a score head of 4,096 numbers; the result is the
    policy. A value head on the policy's trunk has 4,097 numbers."""
    policy, head, adapter = 8_030_261_248, 4096, 41_943_040
    critic = policy - 128256 * 4096 + head
    ppo = Setup("ppo", micro_batch_tokens=2048, reads_reference=True, max_new_tokens=300)
    numbers = {
        "separate": CHECKPOINTS * 3 * (policy + critic) + policy,
        "shared": CHECKPOINTS * 3 * (policy + head + 1) + policy + head + 1,
        "lora": CHECKPOINTS * 3 * (2 * adapter + head) + adapter,
        "one": CHECKPOINTS * 3 * (2 * adapter + head) + adapter,
    }
    ways: dict[str, dict[str, Any]] = {
        "separate": {}, "shared": {"trunk": "shared"}, "lora": {"lora_r": 16}, "one": {"lora_r": 16, "trunk": "one"},
    }  # fmt: skip
    rows = [GivenLengths(200, (300,), 300)] * 8
    for name, more in ways.items():
        found = fit(replace(ppo, **more), SHAPE, rows, device("a100-80gb"), reward=SHAPE)
        assert found.checkpoint_bytes == 4 * numbers[name], name


def test_files_of_sharded_weights_are_whole() -> None:
    whole = fit(BF16, SHAPE, ROWS, device("8xa100-80gb"))
    shards = fit(replace(BF16, processes=8, sharded=True), SHAPE, ROWS, device("8xa100-80gb"))
    assert shards.checkpoint_bytes == whole.checkpoint_bytes


def test_the_text_fits_80_columns_and_says_whether_it_fits() -> None:
    small = Device("cpu", "cpu", 1e9)
    lines = lines_of_fit(fit(BF16, SHAPE, ROWS, small), small, host=True)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "it does NOT fit" in text
    assert "a smaller model, a larger device, or more of them" in text


def test_deadline_and_budget_are_kept_missed_or_in_doubt() -> None:
    one = Duration({}, 0, 0, (3600.0, 7200.0), "")
    for limit, answer in ((3 * 3600.0, "kept"), (1.5 * 3600, "in doubt"), (1800.0, "missed")):
        assert answer in lines_of_limits([one], deadline=limit, budget=None, price=None, devices=1)[1]
    money = lines_of_limits([one, one], deadline=None, budget=100.0, price=2.5, devices=8)[1]
    assert "kept, 40.00 to 80.00 in all" in money
    assert not lines_of_limits([one], deadline=None, budget=None, price=None, devices=1)
    unlisted = "\n".join(lines_of_time(None, price=None, device=Device("tesla v100", "cuda", 1e9)))
    assert "tesla v100 is not in the table of devices" in unlisted
    assert "calibrate" not in unlisted
    assert "assent plan --calibrate" in "\n".join(lines_of_time(None, price=None, device=Device("cpu", "cpu", 1e9)))
    assert "Cost: 20.00 to 40.00" in "\n".join(lines_of_time(one, price=2.5, device=device("8xh100")))
