"""What an order of items saves, by hand; and the benchmark's parts on a few rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assent.commands import label_order as ordering
from assent.data.texts import last_content
from assent.types import Message, Preference, PromptGroup
from tests.support.scripts import load_script

SCRIPTS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return load_script(SCRIPTS / "label_order.py")


def test_a_pair_counts_where_gold_tells_it_apart(script: Any) -> None:
    # right, wrong, equal scores, equal gold: 1 + 0 + 1/2 of three
    scores, worth = np.array([2, 1, 2, 1, 3, 3, 9, 1.0]), np.array([1, 0, 0, 1, 1, 0, 4, 4.0])
    assert script.agreement(scores, worth) == pytest.approx(0.5)
    assert script.agreement(scores[:2], worth[:2]) == 1.0


def test_items_come_in_the_order_in_which_label_gives_them_out(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(config: Any, items: Any) -> np.ndarray:
        assert (config.order, config.reward) == ("margin", "implicit:policy,start")
        return np.array([[float(last_content(text))] for item in items for text in item.completions])

    monkeypatch.setattr(ordering, "_scores", scores)
    items = [
        PromptGroup(
            prompt=(Message("user", f"question {gap}"),),
            completions=((Message("assistant", str(gap)),), (Message("assistant", "0"),)),
            preference=Preference(ranking=(1, 2)),
        )
        for gap in (5, 1, 3, 4)
    ]
    seed = script.Seed.__new__(script.Seed)
    ordered = seed._ordered(tmp_path, items, "margin", "implicit:policy,start")
    assert ordered == [items[place] for place in (1, 2, 3, 0)]
    monkeypatch.undo()
    assert seed._ordered(tmp_path, items, "margin", "implicit:policy,start") == ordered, "what is finished is kept"
    with pytest.raises(SystemExit, match="is no order of 3 items"):
        seed._ordered(tmp_path, items[:3], "margin", "implicit:policy,start")


def test_where_a_curve_reaches_a_target(script: Any) -> None:
    sizes, curve = [100, 200, 400], [0.6, 0.7, 0.9]
    assert script.reached_at(sizes, curve, 0.7) == pytest.approx(200)
    assert script.reached_at(sizes, curve, 0.8) == pytest.approx(200 * math.sqrt(2)), "halfway in log n"
    assert script.reached_at(sizes, curve, 0.5) == 100
    assert script.reached_at(sizes, curve, 0.91) is None


def _error(level: float, slope: float, sizes: list[int]) -> np.ndarray:
    return level * np.array(sizes, dtype=float) ** slope


def test_the_law_is_fitted_to_the_errors(script: Any) -> None:
    sizes = [10, 30, 90]
    level, slope = script.power_law(sizes, 1 - _error(0.8, -0.5, sizes))
    assert (math.exp(level), slope) == (pytest.approx(0.8), pytest.approx(-0.5))


def test_labels_saved_by_hand(script: Any) -> None:
    # errors n^-1/2 at random and (2n)^-1/2 in the order: half of the labels do, at any number of them
    sizes = [10, 40, 160]
    random = np.stack([1 - _error(1, -0.5, sizes)] * 3)
    ordered = np.stack([1 - _error(2**-0.5, -0.5, sizes)] * 3)
    for number in (160, 80):
        found = script.labels_for(sizes, ordered, random, number)
        assert found["share"]["value"] == pytest.approx(0.5)
        assert found["saved"]["value"] == pytest.approx(number / 2)
        assert found["share"]["low"] == pytest.approx(found["share"]["high"]), "the seeds do not differ"
    assert script.labels_for(sizes, random, random, 160)["saved"]["value"] == pytest.approx(0)
    # another slope: 0.2 n^-1/4 has the error 1/8 of 64 labels at random with (0.2 * 8)^4 = 6.5536
    slow = np.stack([1 - _error(0.2, -0.25, sizes)] * 3)
    assert script.labels_for(sizes, slow, random, 64)["share"]["value"] == pytest.approx(6.5536 / 64)


def test_the_interval_is_students_of_the_jackknifes_values(script: Any) -> None:
    # two sizes, so that the fit is exact; two seeds, of which one needs half of the labels and one needs them all
    sizes, number = [1, 4], 4
    random = np.array([[0.0, 0.5], [0.0, 0.5]])
    ordered = np.array([[1 - 2**-0.5, 1 - 8**-0.5], [0.0, 0.5]])
    # leaving a seed out leaves the other: log shares of seeds are log 1/2 and 0; of the mean curve θ. Slopes are -1/2
    theta = 2 * math.log((2**-0.5 + 1) / 2)  # error at 1 is (2^-1/2 + 1)/2, squared: the share
    values = [2 * theta - 0, 2 * theta - math.log(0.5)]
    centre, half = sum(values) / 2, abs(values[0] - values[1]) / 2
    reach = 12.706204736 * half  # Student's 97.5% with one degree of freedom; the standard error of two values
    found = script.labels_for(sizes, ordered, random, number)["share"]
    assert math.log(found["value"]) == pytest.approx(centre)
    assert math.log(found["low"]) == pytest.approx(centre - reach)
    assert math.log(found["high"]) == pytest.approx(centre + reach)


def test_saved_labels_and_share_have_opposite_ends(script: Any) -> None:
    sizes = [10, 100]
    random = np.array([[0.5, 0.8], [0.52, 0.81], [0.49, 0.8]])
    found = script.labels_for(sizes, random + np.array([[0, 0.03], [0, 0.0], [0, 0.02]]), random, 100)
    assert found["saved"]["low"] == pytest.approx(100 * (1 - found["share"]["high"]))
    assert found["saved"]["low"] < found["saved"]["value"] < found["saved"]["high"]


def test_a_curve_that_does_not_rise_needs_no_number(script: Any) -> None:
    random = np.array([[0.5, 0.8]] * 2)
    assert script.labels_for([10, 100], np.array([[0.8, 0.5]] * 2), random, 100) is None


def test_the_summary_pairs_seeds(script: Any) -> None:
    curves = {"random": [[0.5, 0.6, 0.8], [0.6, 0.7, 0.9]], "margin": [[0.5, 0.7, 0.85], [0.6, 0.8, 0.95]]}
    found = script.summary([10, 20, 40], curves)["orders"]
    assert found["random"]["accuracy"][40]["value"] == pytest.approx(0.85)
    gain = found["margin"]["gain"][40]
    assert (gain["value"], gain["low"], gain["high"]) == (pytest.approx(0.05),) * 3, "both seeds gain as much"
    reached = found["margin"]["reached_at"]
    assert reached["half"] == {"accuracy": pytest.approx(0.65), "labels": pytest.approx(10 * math.sqrt(2))}
    assert reached["all"] == {"accuracy": pytest.approx(0.85), "labels": pytest.approx(20 * 2 ** (2 / 3))}
