"""Calibration, length bias and agreement: by hand, on data with known answers, and with intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from assent.errors import DataError
from assent.evaluation.calibration import (
    calibration_error,
    cluster_bootstrap,
    expected_calibration_error,
    fit_temperature,
    length_bias,
    reliability,
    tempered,
)
from assent.evaluation.reward_model import quality_lines, reward_model_quality


def drawn(count: int, *, temperature: float, seed: int = 0) -> np.ndarray:
    """Differences of a model that states σ(d) where σ(d / temperature) is true."""
    generator = np.random.default_rng(seed)
    size = np.abs(generator.normal(0, 2, count))
    return np.where(generator.random(count) < expit(size / temperature), size, -size)


def test_calibration_error_by_hand() -> None:
    """σ(|d|) of 0.72, 0.72 and 0.93; right, wrong and right: 2/3 |0.5 - 0.72| + 1/3 |1 - 0.93|."""
    d = np.array([logit(0.72), -logit(0.72), logit(0.93)])
    assert expected_calibration_error(d) == pytest.approx(2 / 3 * 0.22 + 1 / 3 * 0.07)
    curve = reliability(d)
    assert [(b.low, b.stated, b.right.value, b.right.n) for b in curve] == [
        (pytest.approx(0.7), pytest.approx(0.72), 0.5, 2),
        (pytest.approx(0.9), pytest.approx(0.93), 1.0, 1),
    ]


def test_a_calibrated_model_has_no_error_and_an_overconfident_one_has_its_temperature() -> None:
    honest, loud = drawn(20000, temperature=1.0), drawn(20000, temperature=3.0)
    assert expected_calibration_error(honest) < 0.015
    assert expected_calibration_error(loud) > 0.1
    for d, truth in ((honest, 1.0), (loud, 3.0)):
        fitted = fit_temperature(d)
        assert fitted is not None
        assert fitted.low < truth < fitted.high
        assert fitted.high - fitted.low < 0.3 * truth
    cooled = tempered(loud)
    assert cooled is not None
    assert expected_calibration_error(cooled) < 0.02


def test_the_calibration_errors_interval_holds_its_figure_and_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth of an honest model is 0, which no percentile interval reaches: its resamples are noisier still."""
    monkeypatch.setattr("assent.evaluation.calibration.RESAMPLES", 200)
    honest = [calibration_error(drawn(150, temperature=1.0, seed=seed)) for seed in range(40)]
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in honest)
    assert sum(estimate.low == 0 for estimate in honest) >= 36
    percentile = cluster_bootstrap(expected_calibration_error, drawn(150, temperature=1.0, seed=0))
    assert percentile.low > 0
    truth = expected_calibration_error(drawn(400_000, temperature=2.0, seed=7))
    loud = [calibration_error(drawn(300, temperature=2.0, seed=seed)) for seed in range(40)]
    assert sum(estimate.low <= truth <= estimate.high for estimate in loud) >= 34
    assert sum(estimate.low > 0 for estimate in loud) >= 36  # it can tell


def test_calibration_errors_noise_is_that_of_whole_clusters() -> None:
    """Ten copies of each pair say no more than one: without clusters the same figure would not pass for chance."""
    d = np.repeat(drawn(40, temperature=1.0, seed=3), 10)
    assert calibration_error(d).low > 0
    assert calibration_error(d, clusters=np.repeat(np.arange(40), 10)).low == 0


def test_temperature_is_the_maximum_of_the_likelihood() -> None:
    """Against scikit-learn's logistic regression without intercept or penalty, every pair in both directions."""
    d = drawn(500, temperature=2.0)
    both = np.concatenate([d, -d])[:, None]
    label = np.repeat([1, 0], len(d))
    other = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(both, label)
    fitted = fit_temperature(d)
    assert fitted is not None
    assert fitted.value == pytest.approx(1 / float(other.coef_[0, 0]), rel=1e-4)


@pytest.mark.parametrize("d", [[1.0, 2.0, 3.0], [-1.0, -2.0, 0.5], [0.0, 0.0]])
def test_without_a_finite_temperature_there_is_none(d: list[float]) -> None:
    assert fit_temperature(np.array(d)) is None


def test_each_half_is_tempered_by_the_other() -> None:
    d = np.random.default_rng(0).normal(0.5, 1.0, size=400) * np.tile([1.0, 5.0], 200)
    even, odd = fit_temperature(d[::2]), fit_temperature(d[1::2])
    found = tempered(d)
    assert even is not None
    assert odd is not None
    assert found is not None
    assert found == pytest.approx(d / np.tile([odd.value, even.value], 200))
    slope = (1 / even.low - 1 / even.value) / stats.t.ppf(0.975, 199)  # the standard error of 1/T
    assert even.standard_error == pytest.approx(slope * even.value**2, rel=1e-6)


def test_clusters_widen_the_interval_of_a_temperature() -> None:
    d = np.tile(drawn(60, temperature=2.0), 10)  # each pair ten times
    names = np.tile(np.arange(60), 10)
    alone, together = fit_temperature(d), fit_temperature(d, clusters=names)
    assert alone is not None
    assert together is not None
    assert together.value == pytest.approx(alone.value)
    assert together.standard_error > 2.5 * alone.standard_error
    assert together.clusters == 60


def test_the_bootstrap_resamples_clusters() -> None:
    """Of a mean: about the cluster-robust error, √10 times the naive one where every value stands ten times."""
    values = np.tile(np.random.default_rng(0).normal(size=100), 10)
    names = np.tile(np.arange(100), 10)
    found = cluster_bootstrap(lambda x: float(x.mean()), values, clusters=names)
    assert found.standard_error == pytest.approx(values.std() / 10, rel=0.1)
    assert found.low < values.mean() < found.high
    assert found.clusters == 100
    assert math.isinf(cluster_bootstrap(lambda x: float(x.mean()), values, clusters=np.zeros(1000)).high)
    with pytest.raises(DataError):
        cluster_bootstrap(lambda x: 0.0, np.zeros(0))


def test_length_bias_is_what_is_left_when_the_label_is_known() -> None:
    """Scores follow quality alone and longer answers are better: they correlate, but not given the label."""
    generator = np.random.default_rng(0)
    longer = 1.0 + generator.normal(size=4000)  # of the chosen one
    fair = 1.0 + generator.normal(size=4000)
    turned = np.where(generator.random(4000) < 0.5, 1, -1)
    assert np.corrcoef(fair * turned, longer * turned)[0, 1] > 0.4  # without the label
    assert abs(length_bias(fair, longer)) < 0.05
    assert length_bias(fair + longer, longer) == pytest.approx(1 / math.sqrt(2), abs=0.03)
    assert math.isnan(length_bias(fair, np.ones(4000)))
    # the definition: residuals of both on the label, over all pairs in either order
    label = turned.astype(float)
    a, b = (fair + longer) * turned, longer * turned
    residuals = [x - label * (x @ label) / (label @ label) for x in (a, b)]
    assert length_bias(fair + longer, longer) == pytest.approx(np.corrcoef(*residuals)[0, 1], abs=2e-3)


def test_quality_of_a_known_model() -> None:
    chosen, rejected = np.array([2.0, 0.0, 1.0, 3.0]), np.array([1.0, 1.0, 1.0, 0.0])
    quality = reward_model_quality(
        chosen,
        rejected,
        clusters=["p", "p", "q", "r"],
        chosen_lengths=[10, 10, 20, 5],
        rejected_lengths=[20, 5, 20, 50],
        slices={"topic": ["x", "y", "x", "x"]},
    )
    assert quality.accuracy.value == pytest.approx(2.5 / 4)
    assert quality.brier.value == pytest.approx(np.mean(expit(rejected - chosen) ** 2))
    assert quality.longer_is_worse is not None
    assert (quality.longer_is_worse.value, quality.longer_is_worse.n) == (1.0, 2)
    assert quality.longer_is_better is not None
    assert (quality.longer_is_better.value, quality.longer_is_better.n) == (0.0, 1)
    assert {value: (e.value, e.n) for value, e in quality.slices["topic"].items()} == {
        "x": (pytest.approx(2.5 / 3), 3),
        "y": (0.0, 1),
    }
    assert quality.length_bias is not None
    lines = quality_lines(quality.as_dict())
    assert max(map(len, lines)) <= 80
    assert any("longer completion is worse" in line and "1.000" in line for line in lines)
    bare = reward_model_quality(chosen, rejected)
    assert bare.length_bias is None
    assert bare.slices == {}
