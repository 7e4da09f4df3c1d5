"""What the table of an evaluation says in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from assent.evaluation.lines import _disagreement_lines, table_lines
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


def test_the_judge_is_named_in_full_where_the_line_has_room() -> None:
    table: Any = SimpleNamespace(
        num_prompts=200, scorer="assent.sandbox.gold:reward", baseline="sft", confidence=0.95, rows=[],
        wins={}, precision=None, judge=None,
    )  # fmt: skip
    assert table_lines(table)[0] == "200 prompts, judged by assent.sandbox.gold:reward; 95% intervals"
    table.scorer = "runs/" + "r" * 99
    first = table_lines(table)[0]
    assert len(first) == 80
    assert first.endswith("…; 95% intervals")
