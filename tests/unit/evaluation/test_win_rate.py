"""Win rates by hand; reward-model accuracy is the same count on pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assent.errors import DataError
from assent.evaluation.reward_model import reward_model_quality
from assent.evaluation.win_rate import prompt_win_rates, win_rate


def test_every_pair_of_a_prompt_counts_and_a_tie_is_half():
    # prompt 0: 2>1 win, 2=2 tie, 0<1 loss, 0<2 loss -> 1.5/4; prompt 1: a win
    shares = prompt_win_rates([[2, 0], [3]], [[1, 2], [1]])
    assert shares.tolist() == [0.375, 1.0]
    estimate = win_rate([[2, 0], [3]], [[1, 2], [1]])
    assert (estimate.value, estimate.n, estimate.clusters) == (0.6875, 2, 2)


def test_swapping_the_sides_mirrors_the_interval():
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 4, (30, 3)), generator.integers(0, 3, (30, 2))
    forth, back = win_rate(a, b), win_rate(b, a)
    assert forth.value == pytest.approx(1 - back.value, abs=1e-12)
    assert (forth.low, forth.high) == pytest.approx((1 - back.high, 1 - back.low), abs=1e-9)


def test_more_samples_of_the_same_prompts_are_not_more_prompts():
    few = win_rate([[1.0], [0.0], [1.0], [0.0]] * 5, [[0.5]] * 20)
    many = win_rate([[1.0] * 50, [0.0] * 50, [1.0] * 50, [0.0] * 50] * 5, [[0.5]] * 20)
    assert (few.low, few.high) == (many.low, many.high)


def test_prompts_of_one_conversation_are_one_cluster():
    a, b = [[1.0]] * 6 + [[0.0]] * 6, [[0.5]] * 12
    roots = [i // 3 for i in range(12)]
    alone, joined = win_rate(a, b), win_rate(a, b, clusters=roots)
    assert joined.clusters == 4
    assert joined.high - joined.low > 1.3 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("a", "b"), [([[1.0]], [[1.0], [2.0]]), ([[1.0], []], [[1.0], [2.0]]), ([[math.nan]], [[1.0]])]
)
def test_what_cannot_be_compared_is_refused(a, b):
    with pytest.raises(DataError):
        win_rate(a, b)


def test_reward_model_accuracy_and_calibration_by_hand():
    quality = reward_model_quality([2.0, 1.0, 0.0, 3.0], [1.0, 1.0, 1.0, 0.0])
    assert quality.accuracy.value == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert quality.margin.value == pytest.approx((1 + 0 - 1 + 3) / 4)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))
    stated = (sigmoid(1) + 0.5 + sigmoid(1) + sigmoid(3)) / 4
    assert quality.stated_accuracy.value == pytest.approx(stated)
    assert quality.overconfidence.value == pytest.approx(stated - 0.625)
    assert {"accuracy", "margin", "stated_accuracy", "overconfidence"} <= set(quality.as_dict())
    with pytest.raises(DataError):
        reward_model_quality([1.0], [1.0, 2.0])
