"""Who gets which item: N reviews of each, no item twice, nothing lost; SQLite and PostgreSQL alike."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import sqlalchemy as sa

from assent.feedback.store import labelling
from assent.feedback.store.database import Database
from assent.feedback.store.importing import import_groups
from assent.feedback.store.items import add_items
from assent.feedback.store.labelling import (
    LEASE_SECONDS,
    REPEAT_AFTER,
    Mix,
    answer,
    last_answered,
    next_assignment,
)
from assent.feedback.store.places import set_reviews
from assent.feedback.store.reading import MOST_LEFT, counting, own_left, own_pace, totals
from assent.feedback.store.schema import assignments, judgements, queue
from assent.feedback.tasks import gold_items
from assent.types import Preference
from tests.support.feedback import fill, label_all, people, questions, read, say
from tests.support.rows import comparison
from tests.unit.feedback.conftest import Clock


@pytest.mark.parametrize("reviews", [1, 3])
def test_every_item_is_judged_as_often_as_asked_by_different_people(database: Database, reviews: int) -> None:
    fill(database, 12, reviews=reviews)
    for annotator in people(database, 4):
        label_all(database, annotator)
    with database.reading() as connection:
        found = [(one.item_id, one.annotator_id) for one in counting(connection)]
    assert len(found) == len(set(found)) == 12 * reviews
    assert set(Counter(item for item, _ in found).values()) == {reviews}
    assert totals(database) == (12 * reviews, 12 * reviews)


def test_no_item_is_given_twice_to_annotators_who_ask_at_the_same_time(database: Database) -> None:
    fill(database, 60, reviews=2)
    found: list[tuple[int, int]] = []
    faults: list[BaseException] = []

    def work(annotator: int) -> None:
        try:
            found.extend((item, annotator) for item in label_all(database, annotator))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in people(database, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    for annotator in people(database, 6):  # PostgreSQL passes over rows that are locked just then
        found.extend((item, annotator) for item in label_all(database, annotator))
    assert len(found) == len(set(found)) == 120
    assert set(Counter(item for item, _ in found).values()) == {2}


def test_an_open_item_is_given_again_to_the_same_annotator(database: Database) -> None:
    """After a reload, in a second window, after the server was killed."""
    fill(database, 3)
    (annotator,) = people(database, 1)
    first = next_assignment(database, annotator)
    assert first is not None
    assert next_assignment(database, annotator) == first
    say(database, first, [1, 2])
    second = next_assignment(database, annotator)
    assert second is not None
    assert second.item_id != first.item_id


def test_the_same_form_sent_twice_is_stored_once(database: Database) -> None:
    fill(database, 2)
    (annotator,) = people(database, 1)
    given = next_assignment(database, annotator)
    assert given is not None
    assert say(database, given, [1, 2]) == "stored"
    assert say(database, given, [2, 1]) == "again"
    with database.reading() as connection:
        assert [one.value for one in counting(connection)] == [{"ranking": [1, 2]}]


def test_a_change_of_mind_is_a_new_row_and_the_last_one_counts(database: Database) -> None:
    fill(database, 2)
    (annotator,) = people(database, 1)
    given = next_assignment(database, annotator)
    assert given is not None
    say(database, given, [1, 2], comment="sure", seconds=2.0)
    before = read(database, last_answered, annotator)
    assert before is not None
    assert (before.id, before.revision) == (given.id, 1)
    assert say(database, before, [2, 1]) == "stored"
    with database.reading() as connection:
        rows = connection.execute(sa.select(judgements.c.revision, judgements.c.value).order_by(judgements.c.id)).all()
        assert [(row.revision, row.value) for row in rows] == [(0, {"ranking": [1, 2]}), (1, {"ranking": [2, 1]})]
        assert [one.value for one in counting(connection)] == [{"ranking": [2, 1]}]
    assert totals(database) == (1, 2)


def test_a_skipped_item_goes_to_somebody_else_and_not_back(database: Database) -> None:
    fill(database, 1)
    one, two = people(database, 2)
    given = next_assignment(database, one)
    assert given is not None
    assert say(database, given, None) == "stored"
    assert totals(database) == (0, 1)
    assert next_assignment(database, one) is None
    assert label_all(database, two) == [given.item_id]
    late = read(database, last_answered, one)
    assert late is not None
    assert say(database, late, [1, 2]) == "taken", "its place is another's"
    with database.reading() as connection:
        assert [found.annotator_id for found in counting(connection)] == [two]


def test_an_item_that_is_left_open_too_long_goes_to_somebody_else(database: Database, clock: Clock) -> None:
    fill(database, 1)
    one, two = people(database, 2)
    given = next_assignment(database, one)
    assert given is not None
    clock.now += LEASE_SECONDS - 1
    assert next_assignment(database, two) is None
    clock.now += 2
    second = next_assignment(database, two)
    assert second is not None
    assert second.item_id == given.item_id
    assert say(database, given, [1, 2]) == "taken"
    assert say(database, second, [1, 2]) == "stored"
    assert totals(database) == (1, 1)


def test_an_item_that_all_others_have_had_comes_back_to_who_left_it_open(database: Database, clock: Clock) -> None:
    fill(database, 1, reviews=2)
    one, two = people(database, 2)
    given = next_assignment(database, one)
    assert given is not None
    label_all(database, two)
    clock.now += LEASE_SECONDS + 1
    assert next_assignment(database, two) is None
    assert (read(database, own_left, one), read(database, own_left, two)) == (1, 0)
    again = next_assignment(database, one)
    assert again == replace(given, given=clock.now), "the same place in line: nothing is counted as done twice"
    assert read(database, own_pace, one) == (0, None)
    assert say(database, again, [1, 2]) == "stored"
    assert totals(database) == (2, 2)


def test_an_item_that_lapsed_earlier_is_the_last_one_when_it_comes_back(database: Database, clock: Clock) -> None:
    """So that undo goes back to it."""
    fill(database, 2)
    one, two = people(database, 2)
    lapsed = next_assignment(database, one)
    assert lapsed is not None
    clock.now += LEASE_SECONDS + 1
    taken = next_assignment(database, two)
    assert taken is not None
    assert taken.item_id == lapsed.item_id
    other = next_assignment(database, one)
    assert other is not None
    say(database, other, [1, 2])
    say(database, taken, None)
    again = next_assignment(database, one)
    assert again is not None
    assert (again.id, again.ordinal) == (lapsed.id, other.ordinal + 1)
    say(database, again, [1, 2])
    assert read(database, last_answered, one) == replace(again, state="done", revision=1)
    assert totals(database) == (2, 2)


def test_a_gold_question_that_was_left_open_too_long_is_asked_again(database: Database, clock: Clock) -> None:
    fill(database, 2, reviews=2)
    add_items(database, gold_items([comparison(100)], "compare"), task="compare", reviews=0)
    one, two = people(database, 2)
    mix = Mix(gold_every=1)
    gold = next_assignment(database, one, mix)
    assert gold is not None
    clock.now += LEASE_SECONDS + 1
    assert next_assignment(database, two) is not None
    again = next_assignment(database, one, mix)
    assert again is not None
    assert (again.id, again.item_id) == (gold.id, gold.item_id)


def test_who_answers_late_keeps_the_item_if_nobody_else_took_it(database: Database, clock: Clock) -> None:
    fill(database, 2)
    one, two = people(database, 2)
    given = next_assignment(database, one)
    clock.now += LEASE_SECONDS + 1
    assert given is not None
    other = next_assignment(database, two)
    assert other is not None
    with database.writing() as connection:  # as if two had been given the other item
        connection.execute(sa.update(queue).where(queue.c.item_id == given.item_id).values(remaining=1))
    assert say(database, given, [1, 2]) == "stored"
    with database.reading() as connection:
        left = connection.scalar(sa.select(queue.c.remaining).where(queue.c.item_id == given.item_id))
    assert left == 0


def test_an_answer_in_the_moment_in_which_its_time_ends_takes_the_place_again(database: Database, clock: Clock) -> None:
    """Another's transaction has taken the item back and not ended yet when the answer arrives (PostgreSQL)."""
    fill(database, 1)
    one, two = people(database, 2)
    given = next_assignment(database, one)
    assert given is not None
    clock.now += LEASE_SECONDS + 1
    found: list[str] = []
    late = threading.Thread(target=lambda: found.append(say(database, given, [1, 2])))
    with database.writing() as connection:
        labelling._take_back(connection, two, clock.now)
        late.start()
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while not database.is_sqlite and not connection.scalar(waiting):
            time.sleep(0.01)
    late.join()
    assert found == ["stored"]
    assert next_assignment(database, two) is None
    with database.reading() as connection:
        assert connection.scalar(sa.select(queue.c.remaining)) == 0


def test_nobody_answers_for_somebody_else(database: Database) -> None:
    fill(database, 1)
    one, two = people(database, 2)
    given = next_assignment(database, one)
    assert given is not None
    assert answer(database, given.id, two, revision=0, value={"ranking": [1, 2]}) == "taken"
    with database.reading() as connection:
        assert list(counting(connection)) == []


def test_more_reviews_asked_for_later_are_added_and_done_ones_stay(database: Database) -> None:
    fill(database, 4)
    one, two, three = people(database, 3)
    assert len(label_all(database, one)) == 4
    set_reviews(database, 3)
    assert totals(database) == (4, 12)
    assert label_all(database, one) == []
    assert len(label_all(database, two)) == 4
    set_reviews(database, 2)
    assert label_all(database, three) == []
    assert totals(database) == (8, 8)


def test_reviews_that_are_fewer_for_a_while_are_not_asked_for_again(database: Database) -> None:
    fill(database, 2, reviews=2)
    one, two, three = people(database, 3)
    for annotator in (one, two):
        label_all(database, annotator)
    set_reviews(database, 1)
    set_reviews(database, 2)
    assert label_all(database, three) == []
    assert totals(database) == (4, 4)
    set_reviews(database, 3)
    assert len(label_all(database, three)) == 2


def test_a_place_that_is_not_needed_any_more_is_not_free(database: Database, clock: Clock) -> None:
    """Given back, by skipping or by time, after fewer reviews were asked for."""
    fill(database, 1, reviews=3)
    one, two, three, four = people(database, 4)
    label_all(database, one)
    given = next_assignment(database, two)
    assert given is not None
    assert next_assignment(database, three) is not None
    set_reviews(database, 1)
    say(database, given, None)
    assert next_assignment(database, four) is None
    clock.now += LEASE_SECONDS + 1
    assert next_assignment(database, four) is None
    set_reviews(database, 2)
    assert next_assignment(database, four) is not None


def test_labels_from_files_take_no_places(database: Database) -> None:
    rows = questions(1)
    judged = [replace(row, preference=Preference(ranking=(1, 2), annotator="kim")) for row in rows]
    import_groups(database, judged, source="file")
    fill(database, 1)
    one, two = people(database, 2)
    given = next_assignment(database, one)
    assert given is not None
    say(database, given, None)
    assert len(label_all(database, two)) == 1
    set_reviews(database, 2)
    assert len(label_all(database, people(database, 3)[2])) == 1
    assert totals(database) == (2, 2)


def test_the_order_shown_is_recorded_and_differs_between_annotators(database: Database) -> None:
    fill(database, 40, reviews=2)
    shown: dict[int, list[tuple[int, ...]]] = {}
    for annotator in people(database, 2):
        label_all(database, annotator)
        with database.reading() as connection:
            rows = connection.execute(
                sa.select(assignments.c.item_id, assignments.c.shown_order).where(
                    assignments.c.annotator_id == annotator
                )
            )
            for row in rows:
                shown.setdefault(row.item_id, []).append(tuple(row.shown_order))
    firsts = Counter(order for orders in shown.values() for order in orders)
    assert set(firsts) == {(0, 1), (1, 0)}
    assert 20 < firsts[0, 1] < 60  # 80 fair coins: outside this with a probability below 1e-5
    assert len({orders[0] == orders[1] for orders in shown.values()}) == 2


def test_gold_questions_come_at_their_turn_and_once_for_each_annotator(database: Database) -> None:
    fill(database, 9, reviews=2)
    gold = gold_items([comparison(n) for n in range(100, 103)], "compare")
    add_items(database, gold, task="compare", reviews=0)
    with database.reading() as connection:
        numbers = set(connection.scalars(sa.text("SELECT id FROM items WHERE gold IS NOT NULL")))
    assert len(numbers) == 3
    for annotator in people(database, 2):
        given = label_all(database, annotator, mix=Mix(gold_every=3))
        assert [place for place, item in enumerate(given, start=1) if item in numbers] == [3, 6, 9]
        assert len(given) == len(set(given)) == 12
    assert totals(database) == (18, 18), "gold questions are not counted among the reviews"


def test_repeated_items_are_shown_again_after_some_others(database: Database) -> None:
    fill(database, 40)
    (annotator,) = people(database, 1)
    given = label_all(database, annotator, mix=Mix(repeat_every=5))
    repeats = [(place, item) for place, item in enumerate(given) if item in given[:place]]
    assert len(repeats) >= 5
    for place, item in repeats:
        assert (place + 1) % 5 == 0
        assert place - given.index(item) >= REPEAT_AFTER
    assert len({item for _, item in repeats}) == len(repeats)
    assert len(set(given)) == 40


def test_the_pace_is_the_median_of_what_was_done(database: Database) -> None:
    fill(database, 5)
    (annotator,) = people(database, 1)
    for seconds in (1.0, 9.0, 2.0):
        given = next_assignment(database, annotator)
        assert given is not None
        say(database, given, [1, 2], seconds=seconds)
    next_assignment(database, annotator)
    assert read(database, own_pace, annotator) == (3, 2.0)


def test_what_is_left_for_an_annotator_is_counted(database: Database) -> None:
    fill(database, 5, reviews=2)
    one, two = people(database, 2)
    assert read(database, own_left, one) == 5
    first = next_assignment(database, one)
    assert first is not None
    assert read(database, own_left, one) == 5, "the one in hand is still to be answered"
    say(database, first, [1, 2])
    skipped = next_assignment(database, one)
    assert skipped is not None
    say(database, skipped, None)
    assert (read(database, own_left, one), read(database, own_left, two)) == (3, 5)
    fill(database, 5 + MOST_LEFT)
    assert read(database, own_left, one) == MOST_LEFT
