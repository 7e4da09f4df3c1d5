"""Settings read off measured points: the best that keeps all limits, by the interval's end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assent.errors import ConfigError, DataError
from assent.planning.frontier import Limit, best_point, read_points

POINTS = [
    {"beta": 0.1, "helpful": 0.9, "tokens": 50, "kl": 4.0},
    {"beta": 0.2, "helpful": 0.7, "tokens": 30, "kl": 2.0},
    {"beta": 0.4, "helpful": 0.6, "tokens": 20, "kl": 1.0},
]


def test_the_best_point_that_keeps_all_limits_and_what_each_limit_costs() -> None:
    limits = [Limit.of("tokens<=30"), Limit.of(" kl <= 3.5e0")]
    found = best_point(POINTS, maximise="helpful", limits=limits)
    assert found.settings == {"beta": 0.2}
    assert (found.kept, found.points) == (2, 3)
    assert found.costs == {"tokens <= 30": 0.0, "kl <= 3.5": 0.0}  # the first point breaks both
    (only,) = best_point(POINTS, maximise="helpful", limits=limits[:1]).costs.values()
    assert only == pytest.approx(0.2)


def test_the_end_of_an_interval_counts_where_there_is_one() -> None:
    wide = [{**POINTS[1], "kl_high": 3.0}, POINTS[2]]
    assert best_point(wide, maximise="helpful", limits=[Limit.of("kl<=2.5")]).settings == {"beta": 0.4}
    low = [{**POINTS[1], "helpful_low": 0.5}, POINTS[2]]
    assert best_point(low, maximise="tokens", limits=[Limit.of("helpful>=0.6")]).settings == {"beta": 0.4}


def test_no_point_left_says_which_limit_to_relax() -> None:
    with pytest.raises(ConfigError, match=r"relax one: tokens <= 30 or helpful >= 0\.6"):
        best_point(POINTS, maximise="helpful", limits=[Limit.of("tokens<=20"), Limit.of("helpful>=0.65")])


@pytest.mark.parametrize("text", ["tokens", "tokens<30", "<=3", "tokens<=x"])
def test_a_limit_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Limit.of(text)


def test_an_unknown_figure_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean helpful"):
        best_point(POINTS, maximise="helpfull", limits=[])


def test_points_are_read_from_jsonl_csv_and_our_frontier(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(point) + "\n" for point in POINTS))
    lines = [",".join(POINTS[0]), *(",".join(str(value) for value in point.values()) for point in POINTS)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    assert read_points(tmp_path / "a.jsonl") == read_points(tmp_path / "a.csv") == POINTS
    estimate = {"value": 1.0, "low": 0.5, "high": 1.5}
    point = {"label": "step 4", "kl": estimate, "gold": estimate}
    (tmp_path / "frontier.json").write_text(json.dumps({"methods": [{"method": "ppo", "points": [point]}]}))
    (ours,) = read_points(tmp_path / "frontier.json")
    assert (ours["method"], ours["label"], ours["kl_high"], ours["gold_low"]) == ("ppo", "step 4", 1.5, 0.5)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no point"):
        read_points(tmp_path / "empty.jsonl")
