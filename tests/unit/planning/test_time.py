"""Time is counts of work times seconds for each; a calibration gives the seconds, or the table of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assent.models.shape import GivenLengths, ModelShape
from assent.planning.devices import Device, device
from assent.planning.memory import Learned
from assent.planning.setup import Setup
from assent.planning.time import (
    GATE_GROUPS,
    SPREAD,
    HeldOut,
    Rates,
    Work,
    calibrated,
    cost_of,
    duration,
    keep_calibration,
    one_read,
    one_round,
    one_update,
    rates_of,
)
from assent.stages.gate import ALONE, GROUPS

CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4,
    "num_hidden_layers": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 128,
}  # fmt: skip
SHAPE = ModelShape.of(CONFIG)
ROWS = [GivenLengths(10, (20, 20), 40)] * 32
FLOPS = Rates((1.0, 0, 0, 0), (1.0, 0, 0, 0), (1.0, 0, 0, 0), 0.0, (0.5, 2.0), is_measured=True, source="")


def test_training_on_pairs_reads_the_reference_once_and_updates_every_pass() -> None:
    """Three passes over 32 rows in updates of 8, after one pass of the reference and the gate's reads of six."""
    cost = SHAPE.cost()
    found = duration(Setup("dpo", reads_reference=True, batch_size=8), SHAPE, ROWS, rates=FLOPS, steps=12)
    update, read = cost.update(ROWS), cost.forward(ROWS)
    assert found.work["training"].flops == pytest.approx(3 * update)
    assert found.work["reading"].flops == pytest.approx(read + 6 * read / 32)
    assert found.steps == 12
    assert found.tokens == 3 * 32 * 50
    middle = 3 * update + 1.1875 * read
    assert found.seconds == pytest.approx((0.5 * middle, 2 * middle))
    assert found.money(3.0, devices=2) == pytest.approx((0.5 * middle / 600, 2 * middle / 600))


def test_without_a_reference_only_the_checks_read() -> None:
    found = duration(Setup("sft", batch_size=8), SHAPE, ROWS, rates=FLOPS, steps=4)
    assert found.work["reading"].flops == pytest.approx(6 * SHAPE.cost().forward(ROWS) / 32)
    assert GATE_GROUPS == GROUPS + ALONE


def test_a_round_of_ppo_samples_reads_and_updates_policy_and_critic() -> None:
    setup = Setup("ppo", batch_size=32, num_completions=2, max_new_tokens=20, epochs=4)
    found = duration(setup, SHAPE, ROWS, rates=FLOPS, steps=1, reward=SHAPE)
    policy, critic = (cost_of(Learned(setup, SHAPE, "cpu", scorer=scorer)) for scorer in (False, True))
    assert found.work["training"].flops == pytest.approx(4 * (policy.update(ROWS) + critic.update(ROWS)))
    assert found.work["sampling"].flops == pytest.approx(sum(policy.sample(10, (20, 20)) for _ in ROWS))
    assert found.work["sampling"].layers == 20 * 4  # as many steps as tokens
    assert found.steps == 8


def test_an_adapter_costs_less_by_the_gradients_that_are_not_made() -> None:
    full, lora = (cost_of(Learned(Setup("sft", lora_r=r), SHAPE, "cpu", scorer=False)) for r in (0, 8))
    read = full.forward(ROWS)
    assert full.update(ROWS) == pytest.approx(3 * read)
    assert 2 * read < lora.update(ROWS) < 2.7 * read  # adapters are a sixth of this small model


def test_counts_of_one_update_by_hand() -> None:
    learner = Learned(Setup("sft", micro_batch_tokens=100), SHAPE, "cpu", scorer=False)
    work = one_update(learner, ROWS[:4])  # two passes of two rows each
    assert work.layers == 2 * 4
    assert work.stepped == SHAPE.num_parameters
    assert one_read(learner, ROWS[:4]).stepped == 0
    assert one_round(learner, ROWS[:4]).moved == 20 * SHAPE.num_parameters * 4


def test_a_calibration_is_kept_and_its_range_is_a_quarter_either_way(tmp_path: Path) -> None:
    assert calibrated(tmp_path) is None
    seconds = [1e-10, 2e-10, 1e-4, 1e-9]
    path = keep_calibration(
        {
            "training": seconds,
            "reading": seconds,
            "sampling": seconds,
            "start": 2.0,
            "date": "2026-11-30",
            "threads": 2,
        },
        tmp_path,
    )
    assert path.parent == tmp_path
    rates = rates_of(device("cpu"), folder=tmp_path)
    assert rates is not None
    assert rates.seconds("training", Work(1e10, 1e9, 100, 1e6)) == pytest.approx(1 + 0.2 + 0.01 + 0.001)
    low, high = duration(Setup("sft", batch_size=8), SHAPE, ROWS, rates=rates, steps=4).seconds
    assert high / low == pytest.approx((1 + SPREAD) / (1 - SPREAD))
    assert low > 2.0 * (1 - SPREAD)


def test_a_gpu_that_the_table_lacks_has_no_rates_and_not_those_of_the_cpu(tmp_path: Path) -> None:
    seconds = [1e-10, 2e-10, 1e-4, 1e-9]
    kinds = dict.fromkeys(("training", "reading", "sampling"), seconds)
    keep_calibration({**kinds, "start": 2.0, "date": "2026-11-30", "threads": 2}, tmp_path)
    assert rates_of(device("cpu"), folder=tmp_path) is not None
    assert rates_of(Device("tesla v100", "cuda", 3e10), folder=tmp_path) is None


def test_measuring_on_held_out_data_takes_its_time() -> None:
    """Measurements before the first of 10 steps, after 4 and 8, and after the last; the reference reads once."""
    assert [HeldOut.number(steps=10, eval_steps=every) for every in (0, 4, 5, 10, 20)] == [1, 4, 3, 2, 2]
    cost = SHAPE.cost()
    for setup, reads in ((Setup("sft", batch_size=8), 4), (Setup("dpo", batch_size=8, reads_reference=True), 5)):
        without = duration(setup, SHAPE, ROWS, rates=FLOPS, steps=10)
        held_out = HeldOut(times=4, rows=ROWS, share=0.25)
        found = duration(setup, SHAPE, ROWS, rates=FLOPS, steps=10, held_out=held_out)
        more = 0.25 * reads * cost.forward(ROWS)
        assert found.work["reading"].flops - without.work["reading"].flops == pytest.approx(more)
        assert found.seconds[1] - without.seconds[1] == pytest.approx(2 * more)


def test_answers_to_held_out_prompts_are_sampled_scored_and_read() -> None:
    setup = Setup("online-dpo", batch_size=32, num_completions=2, max_new_tokens=20)
    asked = [GivenLengths(10, (30,), 30)] * 6
    cost = cost_of(Learned(setup, SHAPE, "cpu", scorer=False))
    for reward, readers in ((SHAPE, 3), (None, 2)):
        given: dict[str, Any] = {"rates": FLOPS, "steps": 2, "reward": reward}
        without = duration(setup, SHAPE, ROWS, **given)
        found = duration(setup, SHAPE, ROWS, **given, held_out=HeldOut(times=3, prompts=asked))
        more = {kind: found.work[kind].flops - without.work[kind].flops for kind in found.work}
        assert more["training"] == 0
        assert more["reading"] == pytest.approx(3 * readers * cost.forward(asked))
        assert more["sampling"] == pytest.approx(3 * 6 * cost.sample(10, (30,)))


def test_a_named_device_has_a_range_by_its_stated_utilisation() -> None:
    one, eight = rates_of(device("h100"), dtype="bfloat16"), rates_of(device("8xh100"), dtype="bfloat16")
    assert one is not None
    assert eight is not None
    assert one.training[0] == pytest.approx(8 * eight.training[0])
    found = duration(Setup("sft", batch_size=8, dtype="bfloat16"), SHAPE, ROWS, rates=one, steps=4)
    flops = sum(found.work[kind].flops for kind in ("training", "reading"))
    assert found.seconds == pytest.approx((flops / (989e12 * 0.45), flops / (989e12 * 0.20)), rel=0.05)
    assert "not measured" in one.source
