"""The rules' statistics, without numpy, equal those of numpy, scipy and statsmodels."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from assent.statistics import small
from assent.statistics.intervals import mean_interval

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=57)
SKEWED = RANDOM.exponential(size=40)
close = pytest.approx


@pytest.mark.parametrize("values", [NORMAL, SKEWED, NORMAL[:3]], ids=["normal", "skewed", "three"])
def test_centre_and_spread(values: np.ndarray) -> None:
    listed = values.tolist()
    assert small.mad(listed) == close(stats.median_abs_deviation(values))
    assert [small.quantile(listed, q) for q in (0, 0.3, 0.95, 1)] == close(np.quantile(values, (0, 0.3, 0.95, 1)))
    assert small.variance(listed) == close(np.var(values, ddof=1))
    assert small.correlation(listed, listed[::-1]) == close(np.corrcoef(values, values[::-1])[0, 1])


@pytest.mark.parametrize("freedom", [1.0, 2.5, 4.0, 30.0, 500.0])
@pytest.mark.parametrize("share", [0.025, 0.6, 0.975, 0.999])
def test_student(share: float, freedom: float) -> None:
    assert small.student_quantile(share, freedom) == close(stats.t.ppf(share, freedom), rel=1e-9)


def test_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    for successes, count in ((0, 30), (30, 30), (7, 45), (1, 600)):
        low, high = proportion_confint(successes, count, method="wilson")
        assert small.wilson(successes, count) == close((successes / count, low, high), abs=1e-12)
    fitted = stats.linregress(SKEWED, NORMAL[:40])
    reach = stats.t.ppf(0.975, 38) * fitted.stderr
    found = small.slope(SKEWED.tolist(), NORMAL[:40].tolist())
    assert found == close((fitted.slope, fitted.slope - reach, fitted.slope + reach))
    monkeypatch.setattr(small, "independent", lambda values: float(len(values)))
    welch = stats.ttest_ind(NORMAL, SKEWED, equal_var=False).confidence_interval()
    assert small.difference(NORMAL.tolist(), SKEWED.tolist())[1:] == close((welch.low, welch.high))
    ours = mean_interval(NORMAL)
    assert small.mean_interval(NORMAL.tolist()) == close((ours.value, ours.low, ours.high))


def test_the_ends_of_a_series_and_their_shift() -> None:
    assert small.ends([1.0, 2.0, 3.0]) == ([1.0], [3.0])
    assert small.ends(list(range(6))) == ([0, 1, 2], [3, 4, 5])
    first, last = small.ends(NORMAL.tolist())
    assert (len(first), len(last)) == (14, 14)
    flat, risen = small.shift(NORMAL.tolist()), small.shift((NORMAL + 0.1 * np.arange(57)).tolist())
    assert flat.low < 0 < flat.high
    assert risen.value == close(flat.value + 4.3)
    assert risen.low > 0  # the trend within a quarter does not widen the interval
    assert risen.high - risen.low == close(flat.high - flat.low)
    assert small.shift([1.0, 2.0, 3.0]).low == -math.inf


def test_of_flat_noise_few_shifts_are_sure() -> None:
    series = RANDOM.normal(size=(1000, 24))
    assert sum(small.shift(values.tolist()).excludes_zero for values in series) <= 10


def test_values_that_repeat_each_other_count_less() -> None:
    slow = np.cumsum(RANDOM.normal(size=200))
    assert small.independent(slow.tolist()) < 20
    assert small.independent(RANDOM.normal(size=200).tolist()) > 140


def test_noise_is_the_spread_around_the_trend() -> None:
    noisy = 0.5 * np.arange(400) + RANDOM.normal(scale=2.0, size=400)
    assert small.noise(noisy.tolist()) == close(2.0, rel=0.2)
    assert small.noise([1.0, 2.0]) == 0.0


def test_a_running_median() -> None:
    assert small.smoothed([1.0, 9.0, 2.0, 3.0], 3) == [5.0, 2.0, 3.0, 2.5]


def test_few_or_equal_values_give_wide_or_empty_intervals() -> None:
    assert small.mean_interval([1.0]).high == math.inf
    assert small.difference([1.0, 1.0], [0.0, 0.0]) == (1.0, 1.0, 1.0)
    assert small.difference([1.0], [0.0, 0.0]).low == -math.inf
    assert small.slope([1.0, 1.0], [0.0, 3.0]).low == -math.inf
    assert small.correlation([1.0, 1.0], [0.0, 3.0]) == 0.0


def test_it_needs_the_standard_library_alone() -> None:
    code = (
        "import sys\nfrom assent.diagnosis import examine, opening, watch\n"
        "sys.exit(len({'torch', 'numpy', 'scipy', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
