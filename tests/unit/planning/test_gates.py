"""Limits of gates: the interval's end decides, and what was not measured keeps no limit."""

from __future__ import annotations

from typing import Any

import pytest

from assent.config.gate import GateConfig
from assent.config.loading import parse_options
from assent.errors import ConfigError
from assent.planning.gates import checks_of


def estimate(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


EVALUATION = {
    "policies": [
        {
            "name": "trained",
            "kl": {"k1": estimate(4.0, 3.0, 5.0), "best_of_n": None},
            "sampled": {
                "win_rate": estimate(0.7, 0.6, 0.8),
                "safety": {"under_refusal": estimate(0.02, 0.0, 0.06)},
                "slices": {"kind": {"refuse": {"win_rate": estimate(0.5, 0.3, 0.7)}}},
            },
        }
    ]
}
METRICS = {"eval_rewards/accuracies": 0.66, "eval_rewards/accuracies_low": 0.61, "eval_accuracy": 0.9}


def gate(**limits: Any) -> GateConfig:
    of_run = {"run": "run"} if "min_held_out" in limits else {}
    of_evaluation = {"evaluation": "e.json", "policy": "trained"} if set(limits) - {"min_held_out", "policy"} else {}
    return parse_options(GateConfig, {"output_dir": "out", **of_evaluation, **of_run, **limits})


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"max_kl_nats": 5.0}, True),
        ({"max_kl_nats": 4.5}, False),  # 4.0 is seen, up to 5.0 is possible
        ({"min_win_rate": 0.6}, True),
        ({"min_win_rate": 0.65}, False),
        ({"max_safety": {"under_refusal": 0.06}}, True),
        ({"max_safety": {"under_refusal": 0.05}}, False),
        ({"max_safety": {"over_refusal": 1.0}}, False),  # not measured
        ({"min_slice_win_rate": {"kind=refuse": 0.3}}, True),
        ({"min_slice_win_rate": {"kind=refuse": 0.4}}, False),
        ({"min_slice_win_rate": {"kind=escalate": 0.0}}, False),
        ({"min_held_out": {"eval_rewards/accuracies": 0.61}}, True),
        ({"min_held_out": {"eval_rewards/accuracies": 0.62}}, False),
        ({"min_held_out": {"eval_accuracy": 0.1}}, False),  # no interval was logged
        ({"min_win_rate": 0.0, "policy": "other"}, False),
    ],
)
def test_a_limit_is_kept_by_the_nearer_end_of_the_interval(limits: dict[str, Any], kept: bool) -> None:
    config = gate(**limits)
    (check,) = checks_of(config, evaluation=EVALUATION if config.evaluation else None, metrics=METRICS)
    assert check.kept is kept
    assert check.as_dict()["kept"] is kept


def test_a_gate_says_the_figure_the_end_and_the_limit() -> None:
    (check,) = checks_of(gate(max_kl_nats=4.5), evaluation=EVALUATION, metrics={})
    assert check.line() == "KL to the reference, nats: 4 (upper end 5), at most 4.5 wanted: not kept"
    (missing,) = checks_of(gate(max_safety={"harm": 0.1}), evaluation=EVALUATION, metrics={})
    assert missing.line() == "harm: not measured, at most 0.1 wanted"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "without a limit"),
        ({"max_kl_nats": 1}, "needs evaluation"),
        ({"evaluation": "e", "policy": "p"}, "no effect"),
        ({"run": "r"}, "go together"),
        ({"sign_off": "s"}, "go together"),
        ({"evaluation": "e", "policy": "p", "min_slice_win_rate": {"kind": 0.5}}, "COLUMN=VALUE"),
    ],
)
def test_an_option_without_effect_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(GateConfig, {"output_dir": "out", **options})
