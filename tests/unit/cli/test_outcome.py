"""A summary has the six figures that matter most; --verbose has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from assent.cli.outcome import FIRST, MOST, figures, summary
from assent.metrics import lookup
from tests.support.cli import said
from tests.support.stages import arguments, write_inputs

METRICS = {
    "loss": 0.5,
    "rewards/margins": 0.25,
    "rewards/accuracies": 0.75,
    "grad_norm": 1.0,
    "learning_rate": 1e-5,
    "eval_loss": 0.625,
    "eval_rewards/accuracies": 0.66,
    "eval_rewards/accuracies_low": 0.6,
    "eval_rewards/accuracies_high": 0.72,
    "cost/seconds": 12.5,
    "cost/flops": 1e9,
}


def test_held_out_figures_come_first_with_their_intervals_and_the_time_last() -> None:
    assert [" ".join(line.split()) for line in summary(METRICS, of_last_step=True)] == [
        "eval_rewards/accuracies 0.6600 [0.6000, 0.7200]",
        "eval_loss 0.625",
        "loss 0.5 last step",
        "rewards/accuracies 0.75 last step",
        "rewards/margins 0.25 last step",
        "cost/seconds 12.5",
        "--verbose shows all 11 figures",
    ]
    assert len(figures(METRICS)) == 11
    assert not any("last step" in line for line in summary(METRICS))


def test_a_summary_that_leaves_nothing_out_asks_for_nothing() -> None:
    assert [" ".join(line.split()) for line in summary({"loss": 1, "cost/seconds": 2.0})] == [
        "loss 1",
        "cost/seconds 2",
    ]
    assert summary({}) == []


def test_a_figure_and_its_interval_have_as_many_digits() -> None:
    ends = {"eval_accuracy": 26 / 27, "eval_accuracy_low": 0.80310, "eval_accuracy_high": 0.994}
    assert summary(ends)[0].split() == ["eval_accuracy", "0.9630", "[0.8031,", "0.9940]"]
    large = {"eval_loss": 1234.0, "eval_loss_low": 1200.0, "eval_loss_high": 1300.0}
    assert summary(large)[0].split() == ["eval_loss", "1234", "[1200,", "1300]"]


def test_what_a_summary_may_show_is_declared() -> None:
    assert all(lookup(name) for name in FIRST)
    assert len(set(FIRST)) == len(FIRST) > MOST


def test_a_command_prints_six_figures_and_with_verbose_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = arguments("dpo", write_inputs(tmp_path), tmp_path / "run")
    status, out, err = said(argv, capsys)
    assert status == 0, err
    short = out.splitlines()
    assert len(short) == 1 + MOST + 1
    assert short[1].split()[0] == "eval_rewards/accuracies"
    assert "last step" in out
    assert "grad_norm" not in out
    status, out, _ = said([*argv, "--verbose"], capsys)  # the run is finished: it prints the same figures
    assert status == 0
    assert "grad_norm" in out
    assert len(out.splitlines()) > 20
