"""What the table of an evaluation says in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from assent.evaluation.lines import _disagreement_lines
from assent.statistics.intervals import Estimate


def rate(value: float, low: float, high: float) -> Any:
    return SimpleNamespace(win_rate=Estimate(value=value, low=low, high=high, n=9, clusters=9, standard_error=0.1))


def test_policies_whose_greedy_answers_point_the_other_way_are_named() -> None:
    better, worse, unclear = rate(0.6, 0.55, 0.65), rate(0.3, 0.2, 0.4), rate(0.48, 0.4, 0.56)
    none = SimpleNamespace(win_rate=None)
    rows = [("sft", none, none), ("one", better, worse), ("two", better, unclear), ("three", better, better)]
    rows += [("four", unclear, worse), ("best-of-4", better, None)]
    table: Any = SimpleNamespace(
        baseline="sft", rows=[SimpleNamespace(name=name, sampled=one, greedy=two) for name, one, two in rows]
    )
    assert _disagreement_lines(table) == ["", "greedy and sampled answers disagree on whether it beats sft: one, two"]
    table.rows = table.rows[3:]
    assert _disagreement_lines(table) == []
