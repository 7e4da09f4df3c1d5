"""Composed logs of the sandbox for tests of the monitor, composed once in a process."""

from __future__ import annotations

from functools import cache
from typing import Any

from assent.diagnosis.drift.reference import Reference, fit
from assent.diagnosis.drift.served import Served, read_ours
from assent.sandbox.traffic import Traffic, moved, served_rows
from assent.sandbox.world import World

FIRST_DAY, BASE_DAYS, ROWS_A_DAY = 20_000, 14, 150
NEXT_DAY = FIRST_DAY + BASE_DAYS
RELEASE = Traffic(world=World())


@cache
def logged(what: str | None = None, strength: float = 1.0, *, days: int = 7, first: int = NEXT_DAY, seed: int = 2,
           rows_a_day: int = ROWS_A_DAY) -> tuple[dict[str, Any], ...]:  # fmt: skip
    """Rows of our JSONL; with one thing moved, or nothing."""
    traffic = RELEASE if what is None else moved(RELEASE, what, strength)
    return tuple(served_rows(traffic, first_day=first, days=days, rows_a_day=rows_a_day, seed=seed))


@cache
def release() -> tuple[dict[str, Any], ...]:
    return logged(days=BASE_DAYS, first=FIRST_DAY, seed=1)


def served(rows: tuple[dict[str, Any], ...]) -> list[Served]:
    return [read_ours(row) for row in rows]


@cache
def reference() -> Reference:
    return fit(served(release()))
