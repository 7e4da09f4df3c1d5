"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 80
"""Columns of a terminal that every table fits into."""


def aligned(table: Sequence[Sequence[str]], *, widest_name: int = 16) -> list[str]:
    """Lines of a table whose first row is its head: the first column left, the others right, a rule under the head.

    Names in the first column are cut to `widest_name` characters.
    """
    rows = [(cut(row[0], widest_name), *row[1:]) for row in table]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [line.rstrip() for line in (lines[0], "─" * max(map(len, lines)), *lines[1:])]


def cut(text: str, width: int) -> str:
    """At most `width` characters; an ellipsis stands for the rest."""
    return text if len(text) <= width else text[: width - 1] + "…"
