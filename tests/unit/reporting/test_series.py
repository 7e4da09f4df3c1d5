"""Long curves keep their ends and their spikes; numbers read well."""

from __future__ import annotations

import math

import pytest

from assent.reporting import formatting
from assent.reporting.charts import line_chart
from assent.reporting.series import bands_of, downsample, finite, moving_mean, panels_of
from assent.runs.reading import Series


def wave(n: int) -> Series:
    return Series(tuple(range(n)), tuple(math.sin(i / 50) for i in range(n)))


def test_a_long_curve_keeps_ends_and_spikes_in_300_points():
    long = wave(20_000)
    values = list(long.values)
    values[7_777], values[12_345] = 40.0, -40.0
    thin = downsample(Series(long.steps, tuple(values)))
    assert 200 < len(thin.steps) <= 300
    points = dict(zip(thin.steps, thin.values, strict=True))
    assert (points[7_777], points[12_345]) == (40.0, -40.0)
    assert (thin.steps[0], thin.steps[-1]) == (0, 19_999)
    assert list(thin.steps) == sorted(set(thin.steps))


def test_a_short_curve_is_left_as_it_is():
    assert downsample(wave(300)) == wave(300)


def test_moving_mean_by_hand():
    series = Series(tuple(range(40)), tuple(float(i % 2) for i in range(40)))
    means = moving_mean(series).values
    assert means[0] == pytest.approx(1 / 3)  # 0 1 0
    assert means[10] == pytest.approx(2 / 5)  # 0 1 0 1 0
    assert means[39] == pytest.approx(2 / 3)  # 1 0 1
    assert moving_mean(wave(39)) is None


def test_values_that_cannot_be_drawn_are_left_out():
    assert finite(Series((1, 2, 3), (1.0, math.nan, math.inf))) == Series((1,), (1.0,))
    filled = panels_of({"loss": Series((1, 2), (1.0, math.nan)), "grad_norm": Series((1, 2), (1.0, 2.0))})
    assert [panel.title for panel, _ in filled] == ["Gradient norm"]


def test_held_out_figures_stand_beside_the_training_ones_with_their_intervals():
    steps = (0, 5, 10)
    metrics = {name: Series(steps, (0.5, 0.6, 0.7)) for name in ("rewards/accuracies", "eval_rewards/accuracies")}
    metrics |= {f"eval_rewards/accuracies_{end}": Series(steps, (0.4, 0.5, 0.6)) for end in ("low", "high")}
    ((panel, lines),) = panels_of(metrics)
    assert (panel.title, list(lines)) == ("Accuracy", ["training", "held out"])
    low = metrics["eval_rewards/accuracies_low"]
    assert bands_of(panel, metrics) == {"held out": (low, low)}
    bare = line_chart(lines, identity="a", description="b")
    assert line_chart(lines, identity="a", description="b", bands={}) == bare
    assert line_chart(lines, identity="a", description="b", bands={"held out": (low, low)}) != bare
    metrics["eval_rewards/accuracies_low"] = Series((0, 5), (0.4, 0.5))
    assert bands_of(panel, metrics) == {}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formatting.number(-0.5), "−0.50"),
        (formatting.number(12345.6), "12,346"),
        (formatting.number(0.00012), "0.00012"),
        (formatting.number(None), "–"),
        (formatting.number(math.nan), "–"),
        (formatting.percent(0.785), "78%"),
        (formatting.duration(42.4), "42 s"),
        (formatting.duration(125), "2 min 5 s"),
        (formatting.duration(7260), "2 h 1 min"),
        (formatting.cost(2.48e13, "cost/flops"), "24.8 TFLOP"),
        (formatting.cost(6.15e8, "cost/peak_memory_bytes"), "615 MB"),
        (formatting.cost(12800.0, "cost/labels"), "12,800"),
        (formatting.label("ppo"), "PPO"),
        (formatting.label("best-of-16"), "Best of 16"),
        (formatting.label("my-model"), "my-model"),
        (formatting.interval({"low": -1.0, "high": 2.0}), "−1.00 to 2.00"),
        (formatting.interval({"low": None, "high": None}), "too few"),
        (formatting.interval({"low": 0.0059, "high": 0.04}), "0.006 to 0.040"),
        (formatting.interval({"low": -0.00053, "high": 0.0016}), "−0.0005 to 0.0016"),
        (formatting.interval({"low": 0.0, "high": 0.03}), "0 to 0.03"),
        (formatting.interval({"low": -2e-7, "high": 0.03}), "−2e−07 to 0.03"),
        (formatting.interval({"low": 0.004, "high": 5000.0}), "0.004 to 5,000"),
        (formatting.value_or_text(True), "yes"),
        (formatting.value_or_text(1e-05), "1e-05"),
    ],
)
def test_numbers_as_people_read_them(shown, expected):
    assert shown == expected
