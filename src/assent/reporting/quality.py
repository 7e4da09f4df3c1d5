"""An evaluation's further tables: differences, ratings, the form of the answers, safety, slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from assent.reporting.formatting import interval, label, nats, nats_interval, number, percent, percent_interval

MOST_VALUES = 40
"""Most slices shown for a column."""


def tables_of(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Tables with a column for each policy: `title`, and `rows` with a name and cells of value and interval, as text.

    They compare the policies, describe their sampled answers, and show safety. A figure that is unknown for all
    policies has no row.
    """
    if evaluation is None:
        return []
    of = evaluation["policies"]
    figures = [policy["sampled"] for policy in of]
    names = list(dict.fromkeys(name for found in figures for name in found.get("safety") or {}))
    tables: list[dict[str, Any]] = [
        {
            "title": f"Compared with {label(evaluation['baseline'])}",
            "rows": [
                _row("Difference in score, paired by prompt", [found.get("difference") for found in figures], _number),
                _row(
                    "Win rate at equal length",
                    [(found.get("length_controlled") or {}).get("win_rate") for found in figures],
                    _share,
                ),
                _row(
                    "Bradley–Terry rating, Elo points",
                    [policy.get("rating") if policy["name"] != evaluation["baseline"] else None for policy in of],
                    _points,
                ),
                _row(
                    f"Prompts needed for a win rate ±{evaluation.get('precision') or 0:.2g}",
                    [found.get("prompts_needed") for found in figures],
                    lambda count: {"value": f"{count:,}", "ends": ""},
                ),
            ],
        },
        {
            "title": "Sampled answers",
            "rows": [
                _row("Ended with EOS", [found.get("eos_rate") for found in figures], _share),
                _row("Refusals", [found.get("refusal_rate") for found in figures], _share),
                _row("Entropy, nats", [found.get("entropy") for found in figures], _number),
                _row("KL by k3, nats", [found.get("k3") for found in figures], _nats),
                _row("Distinct words (distinct-1)", [found.get("distinct_1") for found in figures], _number),
                _row("Distinct word pairs (distinct-2)", [found.get("distinct_2") for found in figures], _number),
                _row("Characters", [found.get("characters") for found in figures], _points),
            ],
        },
        {
            "title": "Safety (not part of any score)",
            "rows": [
                _row(
                    name.removeprefix("attribute/").replace("_", " ").capitalize(),
                    [(found.get("safety") or {}).get(name) for found in figures],
                    _number if name.startswith("attribute/") else _share,
                )
                for name in names
            ],
        },
    ]
    known = [{**table, "rows": [row for row in table["rows"] if any(row["cells"])]} for table in tables]
    return [table for table in known if table["rows"]]


def wins_between(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """For more than two policies, each one's win rate over each other: rows of cells in the policies' order."""
    wins = (evaluation or {}).get("wins") or {}
    names = [policy["name"] for policy in (evaluation or {"policies": []})["policies"]]
    return [
        {"name": label(one), "cells": [_cell(wins[one].get(other), _share) for other in names]}
        for one in names
        if one in wins
    ]


def judge_sentence(evaluation: Mapping[str, Any] | None) -> str:
    """How the judge behaved; empty if answers were scored."""
    judge = (evaluation or {}).get("judge")
    if judge is None or judge["consistent"] is None or judge["first_wins"] is None:
        return ""
    agree, first = judge["consistent"], judge["first_wins"]
    return (
        f"Each pair was judged in both orders, which agree {percent(agree['value'])} of the time "
        f"({percent_interval(agree)}). The answer shown first wins {percent(first['value'])} "
        f"({percent_interval(first)}; 50% without bias). {judge['invalid']:,} of {judge['calls']:,} replies were not a "
        "verdict and count as ties."
    )


_Cell = dict[str, str]


def _row(name: str, values: Sequence[Any], how: Callable[[Any], _Cell]) -> dict[str, Any]:
    return {"name": name, "cells": [_cell(value, how) for value in values]}


def _cell(value: Any, how: Callable[[Any], _Cell]) -> _Cell | None:
    return None if value is None else how(value)


def _share(estimate: Mapping[str, Any]) -> _Cell:
    return {"value": percent(estimate["value"], 1), "ends": percent_interval(estimate)}


def _number(estimate: Mapping[str, Any]) -> _Cell:
    return {"value": number(estimate["value"]), "ends": interval(estimate)}


def _nats(estimate: Mapping[str, Any]) -> _Cell:
    return {"value": nats(estimate["value"]), "ends": nats_interval(estimate)}


def _points(estimate: Mapping[str, Any]) -> _Cell:
    return {"value": number(estimate["value"], 0), "ends": interval(estimate, 0)}


def by_slice(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Win rates of every policy except the baseline on each slice's prompts; None without slices."""
    if evaluation is None:
        return None
    policies = [policy for policy in evaluation["policies"] if policy["name"] != evaluation["baseline"]]
    slices = [policy["sampled"].get("slices") or {} for policy in policies]
    rows = []
    for column in dict.fromkeys(name for found in slices for name in found):
        values = list(dict.fromkeys(value for found in slices for value in found.get(column, {})))
        for value in values[:MOST_VALUES]:
            cells = [found.get(column, {}).get(value, {}).get("win_rate") for found in slices]
            count = next((cell["clusters"] for cell in cells if cell), None)
            if count is not None:
                rows.append({"column": column, "value": value, "count": count, "cells": cells})
    return {"names": [policy["name"] for policy in policies], "rows": rows} if rows else None
