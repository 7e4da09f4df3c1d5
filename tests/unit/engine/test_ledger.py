"""What a run costs; and signals in good order."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from assent.engine.interrupts import interruptible
from assent.engine.ledger import Ledger
from assent.metrics import lookup
from tests.support.engine import Nll, make_groups, make_learner


def test_training_costs_three_forward_passes_and_reading_one() -> None:
    learner, groups = make_learner(), make_groups(3)
    learner.read(groups, want={"logprobs"})
    assert learner.flops == learner.cost.forward(groups) > 0
    learner.update(groups, Nll())
    assert learner.flops == 4 * learner.cost.forward(groups)


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


def test_the_first_signal_is_a_flag_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible() as interrupted:
        assert not interrupted
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted
        assert interrupted.signal is signal.SIGTERM
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
