"""What a run costs, counted by hand; and signals in good order."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from assent.engine.interrupts import interruptible
from assent.engine.ledger import Ledger, peak_memory_bytes
from assent.engine.micro_batches import padding_fraction
from assent.engine.runtime import Runtime
from assent.metrics import lookup
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.module import AlignmentModel
from assent.models.shape import Cost, attended_pairs
from tests.support.adapters import adapted
from tests.support.engine import Nll, make_groups, make_learner
from tests.support.models import tiny_llama, tiny_module

GROUP = TokenGroup((1,) * 6, (TokenCompletion((2,) * 4), TokenCompletion((3,) * 2)))


def test_attended_pairs_by_hand() -> None:
    # P = 6, C = 4, R = 2 (performance.md, roofline): P²/2 + PC + C²/2 + PR + R²/2
    assert attended_pairs(GROUP, shared=True) == 18 + 24 + 8 + 12 + 2
    assert attended_pairs(GROUP, shared=False) == ((6 + 4) ** 2 + (6 + 2) ** 2) / 2


@pytest.mark.parametrize(("shared", "tokens", "pairs"), [(True, 12, 64), (False, 18, 82)])
def test_forward_flops_by_hand(shared: bool, tokens: int, pairs: int) -> None:
    cost = Cost.of(tiny_module(), shared=shared)
    layer = 16 * 16 + 2 * 8 * 16 + 16 * 16 + 3 * 16 * 32  # q, k and v of one head, o, three of the MLP
    assert cost.trunk_weights == 2 * layer  # the tied embedding is a lookup
    assert cost.head_weights == 17 * 16
    assert cost.forward([GROUP]) == 2 * 2 * layer * tokens + 4 * 2 * 16 * pairs + 2 * 17 * 16 * 6


def test_a_scorers_head_is_counted_once_per_score_not_per_token() -> None:
    cost = Cost.of(tiny_module(kind="scorer"), shared=True)
    assert cost.head_weights == 16


def test_flops_of_a_score_and_of_sampling_by_hand() -> None:
    layer = 16 * 16 + 2 * 8 * 16 + 16 * 16 + 3 * 16 * 32
    scorer = Cost.of(tiny_module(kind="scorer"), shared=True)
    assert scorer.score([GROUP]) == 2 * 2 * layer * 12 + 4 * 2 * 16 * 64 + 2 * 16 * 2  # the head at two last tokens
    policy = Cost.of(tiny_module(), shared=False)  # sampling reads a prompt once, however training does
    # read: the prompt's 6 tokens, then 3 of 4 and 1 of 2; chosen from: the prompt's last and those 3 + 1
    pairs = 6**2 / 2 + (6 * 3 + 3**2 / 2) + (6 * 1 + 1**2 / 2)
    assert policy.sample(6, [4, 2]) == 2 * 2 * layer * (6 + 3 + 1) + 4 * 2 * 16 * pairs + 2 * 17 * 16 * (1 + 3 + 1)
    assert policy.sample(6, [1]) == 2 * 2 * layer * 6 + 4 * 2 * 16 * 18 + 2 * 17 * 16


def test_training_costs_three_forward_passes_and_reading_one() -> None:
    learner, groups = make_learner(), make_groups(3)
    learner.read(groups, want={"logprobs"})
    assert learner.flops == learner.cost.forward(groups) > 0
    learner.update(groups, Nll())
    assert learner.flops == 4 * learner.cost.forward(groups)


def test_weights_beside_an_adapter_cost_no_gradients_of_their_own() -> None:
    groups = make_groups(3)
    plain = Cost.of(tiny_module(), shared=True)
    cost = Cost.of(AlignmentModel(adapted(tiny_llama()), kind="policy"), shared=True)
    per_layer = 3 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 32))  # rank 3: q, o; k, v; gate, up, down
    assert cost.trunk_weights == plain.trunk_weights + 2 * per_layer
    assert cost.head_weights == plain.head_weights
    trained = 2 * per_layer / (cost.trunk_weights + cost.head_weights)
    attention = plain.forward(groups) - replace(plain, attention_width=0).forward(groups)
    weights = cost.forward(groups) - attention
    assert cost.update(groups) == pytest.approx(2 * cost.forward(groups) + trained * weights + attention)
    scorer = Cost.of(AlignmentModel(adapted(tiny_llama(kind="scorer")), kind="scorer"), shared=True)
    assert scorer.head_weights == 16  # the trained copy alone


def test_the_ledger_goes_on_where_it_was() -> None:
    ledger = Ledger(models_resident=2)
    ledger.add(labels=8, flops=1e9)
    ledger.add(labels=8, completions_sampled=4, reward_calls=4)
    time.sleep(0.01)
    state = ledger.state()
    resumed = Ledger(models_resident=2)
    resumed.restore(state)
    resumed.add(labels=1)
    metrics = resumed.metrics()
    assert metrics["cost/labels"] == 17
    assert metrics["cost/flops"] == 1e9
    assert metrics["cost/completions_sampled"] == metrics["cost/reward_calls"] == 4
    assert metrics["cost/models_resident"] == 2
    assert metrics["cost/seconds"] >= state["seconds"] >= 0.01
    assert len(metrics) == 7
    assert all(lookup(name).name == name for name in metrics)
    with pytest.raises(KeyError):
        ledger.add(coffee=1)


def test_peak_memory_is_in_bytes() -> None:
    before = peak_memory_bytes(torch.device("cpu"))
    block = torch.ones(2**24)  # 64 MiB, touched
    after = peak_memory_bytes(torch.device("cpu"))
    assert 2**26 < after < 2**40
    assert after >= before
    del block


def test_the_first_signal_is_a_flag_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible() as interrupted:
        assert not interrupted
        assert not interrupted.anywhere(Runtime("cpu"))
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted
        assert interrupted.signal is signal.SIGTERM
        assert interrupted.anywhere(Runtime("cpu"))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_mfu_is_the_steps_flops_over_its_time_and_the_measured_matmul_rate() -> None:
    learner, groups = make_learner(), make_groups(3)
    metrics = learner.update(groups, Nll())
    rate = learner.runtime.matmul_rate(torch.float32)
    assert rate > 0
    flops = 3 * learner.cost.forward(groups)
    assert metrics["perf/mfu"] == pytest.approx(flops / (metrics["perf/step_seconds"] * rate), rel=1e-9)


def test_padding_is_counted_where_the_tier_pads() -> None:
    groups = [GROUP, TokenGroup((1,) * 2, (TokenCompletion((2,) * 4),))]  # rows of 12 and 6; padded 10, 8 and 6
    for tier, expected in (("segments", 0.0), ("mask", 6 / 24), ("padded", 6 / 30)):
        module = torch.nn.Linear(1, 1)
        module.tier = tier  # type: ignore[assignment]
        assert padding_fraction(module, groups, [[0, 1]]) == pytest.approx(expected)
        assert padding_fraction(module, [GROUP], [[0], []]) == pytest.approx(0.1 if tier == "padded" else 0.0)
