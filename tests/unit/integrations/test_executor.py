"""Pools: a worker that dies and a row that fails lose nothing, and the results keep the rows' order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from assent.errors import RunError
from assent.integrations.executor import TRIES, Failed, Inline, Outcome, Pool, Result, attempts, execute
from assent.integrations.local_pool import LocalPool
from tests.support.sharding import ONCE, broken, squares


def work_off(pool: Pool, pieces: list[tuple[str, int, int]]) -> tuple[dict[str, Result], list[tuple[str, str]]]:
    kept: dict[str, Result] = {}
    failures: list[tuple[str, str]] = []
    execute(
        pool,
        pieces,
        load=lambda first, last: list(range(first, last)),
        keep=kept.__setitem__,
        failed=lambda key, reason: failures.append((key, reason)),
    )
    return kept, failures


def test_a_row_that_raises_is_kept_apart_and_the_others_keep_their_order() -> None:
    kept, failures = work_off(Inline(squares), [("a", 6, 12), ("b", 12, 17)])
    assert [*chain(*kept["a"].values)] == [n**2 for n in range(6, 12)]
    assert [*chain(*kept["b"].values)] == [144, 196, 225, 256]
    assert kept["b"].apart == [(13, "ValueError: 13 is not liked")]
    assert {key for key, _ in failures} == {"b"}


def test_a_piece_is_halved_only_after_its_worker_died_three_times() -> None:
    asked: list[tuple[int, int]] = []
    steps = attempts(0, 4, failed=lambda _: None)
    asked.append(next(steps))
    died = Failed("gone", died=True)
    for _ in range(TRIES):
        asked.append(steps.send(died))
    assert asked == [(0, 4)] * TRIES + [(0, 2)]
    assert steps.send(Failed("raised")) == (0, 1)  # an error would be raised again: it is halved at once


@pytest.mark.parametrize("rows", [4, 102])
def test_where_all_rows_fail_it_is_not_the_rows(rows: int) -> None:
    """102: so many rows that the piece's end is not waited for."""
    with pytest.raises(RunError, match="not the rows"):
        work_off(Inline(lambda _: _always(ValueError("no"))), [("a", 0, rows)])


def _always(error: Exception) -> Callable[[Any], Any]:
    def work(rows: Any) -> Any:
        raise error

    return work


def test_processes_that_die_are_replaced_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pool = LocalPool(squares, size=2)
    try:
        kept, failures = work_off(pool, [("a", 0, 8), ("b", 14, 18), ("c", 20, 22)])
    finally:
        pool.close()
    assert [*chain(*kept["a"].values)] == [n**2 for n in range(8)]
    assert ONCE.exists()
    assert failures.count(("a", "the worker was ended by SIGKILL")) == 1
    assert [*chain(*kept["b"].values)] == [196, 225, 256]
    assert kept["b"].apart == [(17, "the worker was ended by SIGKILL")]
    assert [*chain(*kept["c"].values)] == [400, 441]


def test_a_worker_that_cannot_be_opened_ends_the_work() -> None:
    pool = LocalPool(broken, size=1)
    try:
        with pytest.raises(RunError, match="no model here"):
            work_off(pool, [("a", 0, 8)])
    finally:
        pool.close()


class Replayed:
    """A pool of two whose workers end in turn, the later one first."""

    size = 2

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Any]] = []

    def submit(self, worker: int, rows: Any) -> None:
        self.waiting.append((worker, rows))

    def wait(self) -> tuple[int, Outcome]:
        from assent.integrations.executor import Finished

        worker, rows = self.waiting.pop()
        return worker, Finished(rows)

    def close(self) -> None: ...


def test_every_piece_is_done_once_whichever_worker_ends_first() -> None:
    kept, _ = work_off(Replayed(), [(name, i, i + 1) for i, name in enumerate("abcdefg")])
    assert {key: result.values for key, result in kept.items()} == {n: [[i]] for i, n in enumerate("abcdefg")}
