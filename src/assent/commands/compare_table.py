"""The table of `compare`: quality, with intervals, against each meter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assent.statistics.intervals import Estimate

HEAD = ("method", "labels", "completions", "TFLOP", "score", "wins vs start")


def lines_of(document: Mapping[str, Any]) -> list[str]:
    """A block for each amount."""
    seeds = f", {document['num_seeds']} seeds" if document["num_seeds"] > 1 else ""
    lines = [f"{document['num_prompts']} prompts{seeds}, judged by {document['judge']}; 95% intervals"]
    for amount in dict.fromkeys(row["amount"] for row in document["rows"]):
        rows = [_cells(row) for row in document["rows"] if row["amount"] == amount]
        widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD))]
        lines += ["", f"equal {document['budget']}: {amount:,g}"]
        for row in (HEAD, *rows):
            cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  ".join(cells).rstrip())
    return lines


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = row["method"] if row["n"] is None else f"{row['method']} ({row['n']})"
    wins = "" if row["win_rate"] is None else Estimate.from_dict(row["win_rate"]).text()
    return (
        name,
        f"{row['labels']:,g}",
        f"{row['completions']:,g}",
        f"{row['flops'] / 1e12:.3g}",
        Estimate.from_dict(row["score"]).text(),
        wins,
    )
