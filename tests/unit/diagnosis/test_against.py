"""A run beside one that worked: what differs beyond its noise, in which options, and what only one of them logged."""

from __future__ import annotations

import pytest

from assent.diagnosis.against import differing_metrics, differing_options, only_here
from assent.diagnosis.case import Case, example
from assent.diagnosis.doctor_text import lines_against

NOISE = [0.01 * (-1) ** i for i in range(40)]


def run(level: float, **config: object) -> Case:
    series = {
        "loss": [level + e for e in NOISE],
        "grad_norm": [1.0 + 10 * e for e in NOISE],
        "perf/mfu": [level] * 40,
        "eval_loss_low": [level] * 40,
    }
    return example(series, stage="dpo", **config)


def test_a_metric_differs_if_its_last_quarter_is_beyond_the_noise() -> None:
    """Noise of ±0.01 in turn: second differences of 0.04, so a spread of 1.4826 · 0.04 / √6 = 0.0242."""
    assert differing_metrics(run(0.5), run(0.5)) == []
    assert differing_metrics(run(0.57), run(0.5)) == []  # 2.9 spreads
    (found,) = differing_metrics(run(0.58), run(0.5))
    assert (found.metric, found.here, found.there) == ("loss", pytest.approx(0.58), pytest.approx(0.5))
    assert found.spreads == pytest.approx(0.08 / (1.4826 * 0.04 / 6**0.5))


def test_options_differ_but_for_places_and_seeds() -> None:
    one = run(0.5, beta=0.1, seed=1, output_dir="a", learning_rate=1e-5)
    other = run(0.5, beta=0.3, seed=2, output_dir="b", learning_rate=1e-5, loss_type="ipo")
    assert differing_options(one, other) == {"beta": (0.1, 0.3), "loss_type": (None, "ipo")}


def test_what_only_one_of_them_logged_is_said() -> None:
    one, other = run(0.5, beta=0.1), example({"loss": [0.5] * 40, "objective/kl": [1.0]}, stage="dpo", beta=0.1)
    assert only_here(one, other) == (["eval_loss_low", "grad_norm", "perf/mfu"], ["objective/kl"])
    lines = lines_against(one, other, "good")
    assert lines == [
        "Beside good:",
        "  no option differs, except places and seeds",
        "  logged only here: eval_loss_low, grad_norm, perf/mfu",
        "  logged only there: objective/kl",
    ]
