"""What logs hold for an update: doubled rows count once, one pair a prompt, and weights that undo a known selection."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from assent.diagnosis.drift.formats import UNPAIRED
from assent.diagnosis.drift.served import Served
from assent.errors import ConfigError, DataError
from assent.planning.logged import (
    CUT,
    UNTIMED,
    comparisons,
    effective_share,
    pairs_of,
    read_logged,
    thumbs,
    weights_of,
)
from assent.types import Message
from tests.support.rows import write_rows

DAY = 86_400
ROWS: list[dict[str, Any]] = [
    {"id": "1", "time": 0, "prompt": "a", "completion": "good", "rating": 5, "logprobs": [-1.0, -2.0],
     "propensity": 0.5},
    {"id": "2", "time": 0, "prompt": "A ", "completion": "bad", "rating": 1, "logprobs": [-4.0], "propensity": 0.5},
    {"id": "3", "time": DAY, "prompt": "a", "completion": "middling", "rating": 3, "propensity": 0.5},
    {"id": "4", "time": DAY, "prompt": "b", "completion": "one", "rating": 4, "propensity": 1.0},
    {"id": "5", "time": DAY, "prompt": "b", "completion": "two", "rating": 4, "propensity": 1.0},
    {"id": "6", "time": DAY, "prompt": "c", "completion": "unrated", "slice": "news"},
]  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "log.jsonl", ROWS)


def test_rows_count_once_and_those_that_cannot_be_read_are_counted_by_reason(tmp_path: Path) -> None:
    wrong = [{"id": "7", "prompt": "d", "completion": "x", "propensity": p} for p in (0, 1.5, "often")]
    anonymous = [{"prompt": "d", "completion": "x"}] * 2  # nothing says that these are one
    found = read_logged(write_rows(tmp_path / "log.jsonl", [*ROWS, *ROWS, *wrong, *anonymous]), {})
    assert (found.rows, len(found.rated), list(found.prompts)) == (
        8,
        5,
        ["user\x1fa", "user\x1fb", "user\x1fc", "user\x1fd"],
    )
    assert dict(found.refused) == {"a propensity that is no probability above 0": 3}
    assert found.prompts["user\x1fc"].columns == {"slice": "news"}
    with pytest.raises(DataError, match="--columns"):
        read_logged(write_rows(tmp_path / "log.jsonl", [{"q": "x"}]), {})


def test_a_prompt_makes_one_pair_of_its_best_and_its_worst_answer(log: Path) -> None:
    [pair] = pairs_of(read_logged(log, {}).rated)  # the answers of b were rated alike
    assert (pair.best.completion, pair.worst.completion, pair.propensity) == ("good", "bad", 0.25)
    [group] = comparisons([pair], logged=True, weighted=False)
    assert group.prompt == (Message("user", "a"),)
    assert group.completions == ((Message("assistant", "good"),), (Message("assistant", "bad"),))
    assert group.logps == (-3.0, -4.0)
    assert comparisons([pair], logged=False, weighted=False)[0].logps is None


def test_weighted_pairs_are_all_that_were_rated_differently_and_a_comparison_is_one_rating(tmp_path: Path) -> None:
    every = pairs_of(read_logged(write_rows(tmp_path / "log.jsonl", ROWS), {}).rated, every=True)
    assert [(one.best.completion, one.worst.completion, one.propensity) for one in every] == [
        ("good", "middling", 0.25), ("good", "bad", 0.25), ("middling", "bad", 0.25),
    ]  # fmt: skip
    sides = [{"prompt": "a", "completion": f"{n}", "outcome": n, "propensity": 0.5} for n in (1, 0)]
    for rows, propensity in (
        (sides, 0.5),  # one act of labelling
        ([sides[0], {**sides[1], "propensity": 0.25}], 0.125),
        ([{**row, "rating": row["outcome"]} for row in sides], 0.25),  # two thumbs
        ([{**row, "outcome": 2 * row["outcome"]} for row in sides], 0.25),
    ):
        [pair] = pairs_of(read_logged(write_rows(tmp_path / "log.jsonl", rows), {}).rated)
        assert pair.propensity == propensity


def test_the_weights_of_all_pairs_undo_who_rates_and_those_of_best_and_worst_do_not() -> None:
    """Over all outcomes of who rates, each pair of differently rated answers has weight 1 in the mean."""
    answers = [
        Served(prompt="a", completion=str(n), label=float(n), propensity=p) for n, p in enumerate((0.9, 0.5, 0.2))
    ]
    mean: dict[bool, Counter[tuple[str, str]]] = {True: Counter(), False: Counter()}
    for rates in product([True, False], repeat=3):
        chance = 1.0
        for one, does in zip(answers, rates, strict=True):
            assert one.propensity is not None
            chance *= one.propensity if does else 1 - one.propensity
        rated = [one for one, does in zip(answers, rates, strict=True) if does]
        for every, found in mean.items():
            for pair in pairs_of(rated, every=every):
                assert pair.propensity is not None
                found[pair.best.completion, pair.worst.completion] += chance / pair.propensity
    assert dict(mean[True]) == pytest.approx({("2", "1"): 1.0, ("2", "0"): 1.0, ("1", "0"): 1.0})
    assert dict(mean[False]) != pytest.approx({("2", "1"): 1.0, ("2", "0"): 1.0, ("1", "0"): 1.0})


def test_a_rating_that_comes_later_counts_and_its_row_counts_once(tmp_path: Path) -> None:
    row = {"id": "1", "prompt": "a", "completion": "x", "finish_reason": "stop"}
    found = read_logged(write_rows(tmp_path / "log.jsonl", [row, row, {**row, "rating": 1}, {**row, "rating": 0}]), {})
    assert (found.rows, [one.label for one in found.rated]) == (1, [1.0])


def test_rated_answers_that_were_cut_have_no_end_and_are_not_trained_on(tmp_path: Path) -> None:
    cut = {"id": "1", "prompt": "a", "completion": "x", "finish_reason": "length"}
    late = {"id": "1", "prompt": "a", "completion": "x", "rating": 1}
    found = read_logged(write_rows(tmp_path / "log.jsonl", [cut, late, {**cut, "id": "2", "rating": 0}]), {})
    assert (found.rows, found.rated, dict(found.refused)) == (2, [], {CUT: 2})


def test_requests_whose_answer_never_came_are_counted(tmp_path: Path) -> None:
    half = {"custom_id": "7", "body": {"messages": [{"role": "user", "content": "a"}]}}
    found = read_logged(write_rows(tmp_path / "log.jsonl", [*ROWS, half]), {})
    assert dict(found.refused) == {UNPAIRED: 1}


def test_ratings_before_a_day_do_not_count(log: Path) -> None:
    found = read_logged(log, {}).since("1970-01-02")
    assert [one.identity for one in found.rated] == ["3", "4", "5"]
    assert found.rows == 6
    assert dict(found.refused) == {"a rating before 1970-01-02": 2}
    write_rows(log, [{"id": "7", "prompt": "a", "completion": "x", "rating": 1}])
    assert read_logged(log, {}).since("1970-01-02").not_used() == [f"not used: {UNTIMED}: 1"]
    with pytest.raises(ConfigError, match="since is no day"):
        found.since("yesterday")


def test_log_probabilities_and_propensities_that_are_wanted_must_be_there(log: Path) -> None:
    rated = read_logged(log, {}).rated
    [pair] = pairs_of(rated[1:])  # "middling" has no log-probabilities
    with pytest.raises(DataError, match="no logged log-probabilities"):
        comparisons([pair], logged=True, weighted=False)
    with pytest.raises(DataError, match="1 of 2 ratings have no propensity"):
        weights_of([0.5, None])


def test_thumbs_are_ratings_above_the_border(log: Path) -> None:
    groups = thumbs(read_logged(log, {}).rated, up_above=3, weighted=True)
    assert [group.preference.thumbs for group in groups if group.preference] == [
        (True,),
        (False,),
        (False,),
        (True,),
        (True,),
    ]
    # 1/p is 2, 2, 2, 1, 1: the mean is 8/5
    assert [group.preference.weight for group in groups if group.preference] == pytest.approx([1.25] * 3 + [0.625] * 2)


def test_weights_and_what_they_are_worth_by_hand() -> None:
    assert weights_of([0.5, 0.25]) == pytest.approx([2 / 3, 4 / 3])
    assert effective_share([0.5, 0.25]) == pytest.approx(36 / (2 * 20))  # (2 + 4)² / (2 (4 + 16))
    assert effective_share([0.3, 0.3, 0.3]) == pytest.approx(1.0)
    assert effective_share([0.5, None]) is None
    assert effective_share([]) is None


def test_weighting_undoes_a_selection_whose_probability_is_known() -> None:
    """Over all outcomes of who rates, Σ x/p of those who do has the mean Σ x of all; Σ x of those who do has not."""
    values, chances = [1.0, 0.0, 1.0, 1.0], [0.9, 0.2, 0.5, 0.1]
    weighted = plain = 0.0
    for rates in product([True, False], repeat=len(values)):
        chance, known = 1.0, [p for p, does in zip(chances, rates, strict=True) if does]
        for p, does in zip(chances, rates, strict=True):
            chance *= p if does else 1 - p
        mean = sum(1 / p for p in known) / len(known) if known else 0.0  # which weights_of divides by
        chosen = [value for value, does in zip(values, rates, strict=True) if does]
        weighted += chance * mean * sum(v * w for v, w in zip(chosen, weights_of(known), strict=True))
        plain += chance * sum(chosen)
    assert weighted == pytest.approx(sum(values))
    assert abs(plain - sum(values)) > 1


def test_a_propensity_stands_beside_the_fields_of_any_format(tmp_path: Path) -> None:
    row = {"request": {"messages": [{"role": "user", "content": "a"}]}, "rating": 1, "propensity": 0.25,
           "response": {"choices": [{"message": {"content": "x"}}]}}  # fmt: skip
    [served] = read_logged(write_rows(tmp_path / "log.jsonl", [row]), {}).rated
    assert (served.propensity, served.turns) == (0.25, (Message("user", "a"),))
