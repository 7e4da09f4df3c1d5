"""What an evaluation says beside scores and wins: length control, refusals and safety apart from quality, slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_VALUES = 40
"""Slices shown of one column."""


def beside_quality(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Rows of a table: a name, an estimate or None for each policy, and whether it is a share."""
    if evaluation is None:
        return []
    figures = [policy["sampled"] for policy in evaluation["policies"]]
    rows: list[dict[str, Any]] = [
        {
            "name": "Wins at equal length",
            "cells": [(found.get("length_controlled") or {}).get("win_rate") for found in figures],
            "share": True,
        },
        {"name": "Refusals", "cells": [found.get("refusal_rate") for found in figures], "share": True},
    ]
    for name in dict.fromkeys(name for found in figures for name in found.get("safety") or {}):
        cells = [(found.get("safety") or {}).get(name) for found in figures]
        attribute = name.startswith("attribute/")
        shown = name.removeprefix("attribute/").replace("_", " ").capitalize()
        rows.append({"name": shown, "cells": cells, "share": not attribute})
    return [row for row in rows if any(row["cells"])]


def by_slice(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Win rates of each policy but the baseline on each slice's prompts; None without slices."""
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
