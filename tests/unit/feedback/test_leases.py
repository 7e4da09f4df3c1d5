"""An item that its annotator left open for too long, and comes back to."""

from __future__ import annotations

from dataclasses import replace

from assent.feedback.store import labelling
from assent.feedback.store.database import Database
from assent.feedback.store.labelling import LEASE_SECONDS, next_assignment
from tests.support.feedback import fill, people, say
from tests.unit.feedback.conftest import Clock


def test_who_comes_back_to_an_open_item_has_it_for_the_whole_time_again(database: Database, clock: Clock) -> None:
    fill(database, 1)
    one, two = people(database, 2)
    given = next_assignment(database, one)
    assert given is not None
    clock.now += LEASE_SECONDS - 1
    assert next_assignment(database, one) == given, "within its time it keeps its time: the page was shown then"
    clock.now += LEASE_SECONDS
    again = next_assignment(database, one)
    assert again == replace(given, given=clock.now)
    clock.now += LEASE_SECONDS - 1
    assert next_assignment(database, two) is None, "it is not taken from who is at it"
    assert say(database, again, [1, 2]) == "stored"


def test_who_comes_back_too_late_gets_another_item(database: Database, clock: Clock) -> None:
    """Another's request takes the item back at the same moment (PostgreSQL)."""
    fill(database, 2)
    one, two = people(database, 2)
    given = next_assignment(database, one)
    assert given is not None
    clock.now += LEASE_SECONDS + 1
    with database.reading() as connection:
        row = connection.execute(labelling._OPEN_OF_MINE, {"who": one}).one()
    other = next_assignment(database, two)
    assert other is not None
    with database.writing() as connection:
        assert labelling._in_hand(connection, row, clock.now) is None
    new = next_assignment(database, one)
    assert new is not None
    assert (other.item_id, new.item_id != given.item_id) == (given.item_id, True)
