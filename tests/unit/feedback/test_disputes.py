"""Who gets which dispute."""

from __future__ import annotations

from assent.feedback.store.database import Database
from assent.feedback.store.labelling import (
    LEASE_SECONDS,
    last_answered,
    next_assignment,
    next_dispute,
)
from assent.feedback.store.people import ensure_annotator
from assent.feedback.store.reading import counting
from assent.feedback.store.schema import ADJUDICATION
from tests.support.feedback import fill, label_all, people, read, say
from tests.unit.feedback.conftest import Clock


def test_disputes_go_to_the_adjudicator_until_decided(database: Database) -> None:
    fill(database, 3, reviews=2)
    one, two, judge = people(database, 3)
    label_all(database, one)
    order: list[int] = []

    def choose(given: object) -> list[int]:
        order.append(given.item_id)  # type: ignore[attr-defined]
        return [2, 1] if len(order) <= 2 else [1, 2]

    label_all(database, two, choose)
    disputed = set()
    while (case := next_dispute(database, judge)) is not None:
        assert next_dispute(database, judge) == case, "the same until it is decided"
        assert next_assignment(database, judge) is None, "it is not an item to label"
        disputed.add(case.item_id)
        say(database, case, [1, 1])
    assert disputed == set(order[:2])
    before = read(database, last_answered, two)
    assert before is not None
    say(database, before, [2, 1])  # a change of mind makes a new dispute
    new = next_dispute(database, judge)
    assert new is not None
    assert new.item_id == order[2]


def dispute(database: Database, number: int = 1) -> None:
    """Items on which two people differ."""
    fill(database, number, reviews=2)
    one, two = people(database, 2)
    label_all(database, one)
    label_all(database, two, lambda _: [2, 1])


def admins(database: Database) -> list[int]:
    return [ensure_annotator(database, name, role="admin").id for name in ("mia", "ben")]


def test_a_dispute_that_an_adjudicator_skips_goes_to_another(database: Database) -> None:
    dispute(database)
    mia, ben = admins(database)
    case = next_dispute(database, mia)
    assert case is not None
    assert next_dispute(database, ben) is None, "it is in mia's hands"
    say(database, case, None)
    assert next_dispute(database, mia) is None
    other = next_dispute(database, ben)
    assert other is not None
    assert (other.item_id, say(database, other, [1, 2])) == (case.item_id, "stored")
    again = read(database, last_answered, mia)
    assert again is not None
    assert say(database, again, [2, 1]) == "taken", "ben has decided"
    mind = read(database, last_answered, ben)
    assert mind is not None
    assert say(database, mind, [2, 1]) == "stored", "his own decision he may change"


def test_a_dispute_that_is_left_open_too_long_goes_to_another(database: Database, clock: Clock) -> None:
    dispute(database)
    mia, ben = admins(database)
    case = next_dispute(database, mia)
    assert case is not None
    clock.now += LEASE_SECONDS + 1
    assert next_dispute(database, mia) == case, "while nobody else has decided it is still mia's"
    other = next_dispute(database, ben)
    assert other is not None
    assert other.item_id == case.item_id
    say(database, other, [1, 2])
    assert say(database, case, [2, 1]) == "taken"
    assert next_dispute(database, mia) is None
    with database.reading() as connection:
        decisions = [one for one in counting(connection) if one.occasion == ADJUDICATION]
    assert [one.annotator_id for one in decisions] == [ben]


def test_a_decision_that_is_taken_back_is_a_dispute_again(database: Database) -> None:
    dispute(database)
    mia, ben = admins(database)
    case = next_dispute(database, mia)
    assert case is not None
    say(database, case, [1, 2])
    assert next_dispute(database, ben) is None
    before = read(database, last_answered, mia)
    assert before is not None
    say(database, before, None)
    assert next_dispute(database, ben) is not None
