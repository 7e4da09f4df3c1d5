"""Composed logs: each move moves its own part of the rows and leaves the others as they are."""

from __future__ import annotations

from typing import Any

import pytest

from assent.sandbox.traffic import MOVES, Traffic, moved, served_rows
from assent.sandbox.world import World

RELEASE = Traffic(world=World())
TOUCHES = {
    "taste": {"rating"},
    "reward model": {"score"},
    "judge": {"judge"},
    "serving": {"logprobs"},
    "prompts": {"prompt", "completion", "score", "judge", "rating", "logprobs", "num_tokens"},
    "behaviour": {"completion", "score", "judge", "rating", "logprobs", "num_tokens"},
    "feedback": {"rating"},
}


def rows(traffic: Traffic) -> list[dict[str, Any]]:
    return list(served_rows(traffic, first_day=10, days=2, rows_a_day=150, seed=3))


@pytest.mark.parametrize("what", MOVES)
def test_a_move_moves_its_own_part_alone(what: str) -> None:
    before, after = rows(RELEASE), rows(moved(RELEASE, what, 1.0))
    assert rows(moved(RELEASE, what, 0.0)) == before
    differ = {name for one, other in zip(before, after, strict=True) for name in one.keys() | other.keys()
              if one.get(name) != other.get(name)}  # fmt: skip
    assert differ <= TOUCHES[what]
    assert differ & TOUCHES[what]


def test_selected_feedback_is_of_the_worse_answers_and_taste_of_other_ones() -> None:
    def mean(rows: list[dict[str, Any]], name: str) -> float:
        values = [row[name] for row in rows if "rating" in row]
        return sum(values) / len(values)

    before, selected, taste = (rows(RELEASE), rows(moved(RELEASE, "feedback", 1.0)), rows(moved(RELEASE, "taste", 1.0)))
    assert mean(selected, "score") < mean(before, "score") - 0.1
    assert {row["id"] for row in taste if "rating" in row} == {row["id"] for row in before if "rating" in row}
    assert mean(taste, "rating") < mean(before, "rating")


def test_days_and_ids() -> None:
    found = rows(RELEASE)
    assert [int(row["time"]) // 86_400 for row in found] == [10] * 150 + [11] * 150
    assert len({row["id"] for row in found}) == 300
    with pytest.raises(ValueError, match="unknown move"):
        moved(RELEASE, "weather", 1.0)
