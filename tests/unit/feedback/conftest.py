"""Stores: SQLite in a file, and PostgreSQL where it is installed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assent.feedback.store.database import Database, open_database
from tests.support import postgresql


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def postgresql_address() -> Iterator[str]:
    if postgresql.PROGRAMS is None:
        pytest.skip(postgresql.ABSENT)
    with postgresql.server() as address:
        yield address


_NUMBERS = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store may be made."""
    if request.param == "sqlite":
        return str(tmp_path / "labels.db")
    return postgresql.new_database(request.getfixturevalue("postgresql_address"), f"labels{next(_NUMBERS)}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(address: str, clock: Clock) -> Iterator[Database]:
    with open_database(address, clock=clock) as found:
        yield found


@pytest.fixture
def new_store(tmp_path: Path, clock: Clock) -> Iterator[Callable[[], Database]]:
    """Further stores, in SQLite."""
    opened: list[Database] = []

    def make() -> Database:
        opened.append(open_database(str(tmp_path / f"other{len(opened)}.db"), clock=clock))
        return opened[-1]

    yield make
    for one in opened:
        one.close()
