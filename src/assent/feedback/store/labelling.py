"""Who judges what: the next item of an annotator, and the answer. Each is one transaction.

An item has `reviews` places. A place is taken when the item is given, and free again when it is skipped or left open
too long. So no item is done more often than asked for, however many annotators ask at the same time. Who skipped an
item does not get it again; who left it open too long does, unless others have taken its places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from assent.feedback.store.database import Database
from assent.feedback.store.items import get_setting
from assent.feedback.store.places import at_most, give_back, had, take_place
from assent.feedback.store.schema import (
    ADJUDICATION,
    FIRST,
    GIVEN_BACK,
    annotators,
    assignments,
    items,
    judgements,
    queue,
)
from assent.feedback.tasks import Value, disputed, shuffled, uniform

LEASE_SECONDS = 1800
"""An item that was given and not answered for so long goes to somebody else."""
REPEAT_AFTER = 10
"""A repeated item comes at least so many items after the first time."""
LOOKS_A_LEASE = 100
"""How often a process looks for items that were left open too long, while there are others to give."""

# Statements of every page are built once: building one takes as long as running it.
_WHO, _ITEM, _THIS = (sa.bindparam(name, type_=sa.Integer) for name in ("who", "item", "this"))
_revision = (
    sa.select(sa.func.count())
    .where(judgements.c.assignment_id == assignments.c.id)
    .correlate(assignments)
    .scalar_subquery()
    .label("revision")
)
_ASSIGNMENTS = sa.select(assignments, _revision)
_THIS_OF_MINE = _ASSIGNMENTS.where(assignments.c.id == _THIS, assignments.c.annotator_id == _WHO)
# locked: its time may end at this moment, and its place go to another
_THIS_LOCKED = _THIS_OF_MINE.with_for_update(of=assignments)
_OPEN_OF_MINE = _ASSIGNMENTS.where(
    assignments.c.annotator_id == _WHO, sa.text("assignments.state = 'open'"), assignments.c.occasion >= FIRST
)
_ON_OCCASION = _ASSIGNMENTS.where(
    assignments.c.item_id == _ITEM,
    assignments.c.annotator_id == _WHO,
    assignments.c.occasion == sa.bindparam("occasion_asked", type_=sa.Integer),
)
_BEFORE = (
    _ASSIGNMENTS.where(
        assignments.c.annotator_id == _WHO,
        assignments.c.state != "open",
        assignments.c.ordinal < sa.bindparam("before", type_=sa.Integer),
        # what was only left open too long was not answered
        sa.exists().where(judgements.c.assignment_id == assignments.c.id),
    )
    .order_by(assignments.c.ordinal.desc())
    .limit(at_most(1))
)
_LAST_ORDINAL = sa.select(sa.func.max(assignments.c.ordinal)).where(assignments.c.annotator_id == _WHO)
# Two windows of one annotator ask one after the other (PostgreSQL; SQLite has one writer anyway).
_LOCK_ANNOTATOR = sa.select(annotators.c.id).where(annotators.c.id == _WHO).with_for_update()
_PLACE = sa.select(queue).where(queue.c.item_id == _ITEM).with_for_update()
# The condition is written out, and not a parameter: only then do the databases use the index of open items.
_NEXT_IN_QUEUE = (
    sa.select(queue.c.item_id)
    .where(sa.text("queue.remaining > 0"), ~had(_WHO, queue.c.item_id))
    .order_by(queue.c.position)
    .limit(at_most(1))
    .with_for_update(skip_locked=True, of=queue)
)
_LATE = (
    sa.select(assignments.c.id, assignments.c.item_id)
    .where(
        sa.text("assignments.state = 'open'"),
        assignments.c.given < sa.bindparam("until", type_=sa.Float),
        assignments.c.annotator_id != _WHO,
        assignments.c.occasion == FIRST,
    )
    .limit(at_most(20))
    .with_for_update(skip_locked=True)
)
_SET_STATE = (
    sa.update(assignments).where(assignments.c.id == _THIS).values(state=sa.bindparam("new_state", type_=sa.String))
)
_COMPLETIONS = sa.select(items.c.completion_ids).where(items.c.id == _ITEM)
_LATEST_VALUE = (
    sa.select(judgements.c.value)
    .where(judgements.c.assignment_id == _THIS)
    .order_by(judgements.c.revision.desc())
    .limit(at_most(1))
)
_newest = (
    sa.select(judgements.c.assignment_id, sa.func.max(judgements.c.revision).label("revision"))
    .where(judgements.c.item_id == _ITEM)
    .group_by(judgements.c.assignment_id)
    .subquery()
)
_REVIEWS = (
    sa.select(judgements.c.value, assignments.c.occasion)
    .join(
        _newest,
        sa.and_(judgements.c.assignment_id == _newest.c.assignment_id, judgements.c.revision == _newest.c.revision),
    )
    .join(assignments, assignments.c.id == judgements.c.assignment_id)
)


@dataclass(frozen=True, slots=True)
class Mix:
    """What is mixed in among the items. 0: nothing."""

    gold_every: int = 0
    repeat_every: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """An item in the hands of an annotator. `revision`: how many judgements there are of it already."""

    id: int
    item_id: int
    annotator_id: int
    occasion: int
    ordinal: int
    shown_order: tuple[int, ...]
    state: str
    given: float
    revision: int


Answered = Literal["stored", "again", "taken"]
"""again: this very answer was stored before; taken: the item was given to somebody else meanwhile, nothing stored."""


def next_assignment(database: Database, annotator_id: int, mix: Mix = Mix()) -> Assignment | None:
    """What this annotator does next: what is open already, else a new item. None: there is nothing left."""
    with database.writing() as connection:
        connection.execute(_LOCK_ANNOTATOR, {"who": annotator_id})
        now = database.clock()
        looks = database.is_time("take back", LEASE_SECONDS / LOOKS_A_LEASE)
        if looks:
            _take_back(connection, annotator_id, now)
        row = connection.execute(_OPEN_OF_MINE, {"who": annotator_id}).first()
        if row is not None:
            return _assignment(row)
        ordinal = 1 + (_last_ordinal(connection, annotator_id) or 0)
        chosen = _mixed_in(connection, annotator_id, ordinal, mix) or _from_queue(connection, annotator_id)
        if chosen is None and not looks:
            _take_back(connection, annotator_id, now)
            chosen = _from_queue(connection, annotator_id)
        if chosen is None:
            return None
        return _give(connection, annotator_id, *chosen, ordinal=ordinal, now=now)


def next_dispute(database: Database, annotator_id: int) -> Assignment | None:
    """An item whose reviews differ, for an adjudicator. None: there is none.

    One that an adjudicator skipped, or left open too long, goes to another.
    """
    with database.writing() as connection:
        connection.execute(_LOCK_ANNOTATOR, {"who": annotator_id})
        now = database.clock()
        query = _ASSIGNMENTS.join(queue, queue.c.item_id == assignments.c.item_id).where(
            assignments.c.annotator_id == annotator_id,
            sa.text("assignments.state = 'open'"),
            assignments.c.occasion == ADJUDICATION,
            queue.c.disputed == 1,  # another may have decided it meanwhile
        )
        row = connection.execute(query).first()
        if row is not None:
            return _assignment(row)
        is_held = sa.and_(sa.text("assignments.state = 'open'"), assignments.c.given >= now - LEASE_SECONDS)
        taken = (
            sa.select(assignments.c.id)
            .where(
                assignments.c.item_id == queue.c.item_id,
                assignments.c.occasion == ADJUDICATION,
                sa.or_(assignments.c.annotator_id == annotator_id, is_held),
            )
            .exists()
        )
        found = connection.scalar(
            sa.select(queue.c.item_id)
            .where(sa.text("queue.disputed = 1"), ~taken)
            .order_by(queue.c.item_id)
            .limit(at_most(1))
            .with_for_update(skip_locked=True)
        )
        if found is None:
            return None
        ordinal = 1 + (_last_ordinal(connection, annotator_id) or 0)
        return _give(connection, annotator_id, found, ADJUDICATION, ordinal=ordinal, now=now)


def answer(
    database: Database,
    assignment_id: int,
    annotator_id: int,
    *,
    revision: int,
    value: Value | None,
    comment: str = "",
    seconds: float | None = None,
) -> Answered:
    """Stores a judgement; `value` None: skipped. The same form sent twice is stored once.

    revision   how many judgements of it there were when the annotator saw it
    """
    with database.writing() as connection:
        connection.execute(_LOCK_ANNOTATOR, {"who": annotator_id})
        row = connection.execute(_THIS_LOCKED, {"this": assignment_id, "who": annotator_id}).first()
        if row is None:
            return "taken"
        if revision != row.revision:
            return "again"
        place = connection.execute(_PLACE, {"item": row.item_id}).first()
        if not _hold_place(connection, row, place, is_skipped=value is None):
            return "taken"
        said = {
            "assignment_id": assignment_id,
            "revision": revision,
            "item_id": row.item_id,
            "annotator_id": annotator_id,
            "value": None if value is None else dict(value),
            "comment": comment or None,
            "seconds": seconds,
            "guideline_id": get_setting(connection, "guidelines"),
            "created": database.clock(),
        }
        connection.execute(sa.insert(judgements), said)
        is_given_back = value is None and row.occasion in (FIRST, ADJUDICATION)
        connection.execute(_SET_STATE, {"this": assignment_id, "new_state": "free" if is_given_back else "done"})
        if place is not None:
            if is_given_back:
                give_back(connection, row.item_id)
            _mark_disputed(connection, place)
    return "stored"


def last_answered(connection: Connection, annotator_id: int, *, before: int = 2**31 - 1) -> Assignment | None:
    """The last item that this annotator answered or skipped (`before` this ordinal), to be changed."""
    row = connection.execute(_BEFORE, {"who": annotator_id, "before": before}).first()
    return None if row is None else _assignment(row)


def assignment_of(connection: Connection, assignment_id: int, annotator_id: int) -> Assignment | None:
    """None if there is none, or if it is another annotator's."""
    row = connection.execute(_THIS_OF_MINE, {"this": assignment_id, "who": annotator_id}).first()
    return None if row is None else _assignment(row)


def _last_ordinal(connection: Connection, annotator_id: int) -> int | None:
    return connection.scalar(_LAST_ORDINAL, {"who": annotator_id})


def _take_back(connection: Connection, annotator_id: int, now: float) -> None:
    """Frees the places of items that others were given long ago and have not answered."""
    late = connection.execute(_LATE, {"until": now - LEASE_SECONDS, "who": annotator_id}).all()
    for row in late:
        connection.execute(_SET_STATE, {"this": row.id, "new_state": "lapsed"})
        give_back(connection, row.item_id)


def _mixed_in(connection: Connection, annotator_id: int, ordinal: int, mix: Mix) -> tuple[int, int] | None:
    """A gold question or a repeated item, if it is time for one: the item and the occasion."""
    if mix.gold_every and ordinal % mix.gold_every == 0:
        is_new = ~had(annotator_id, items.c.id)
        gold = connection.scalars(sa.select(items.c.id).where(sa.text("items.gold IS NOT NULL"), is_new)).all()
        if gold:
            return min(gold, key=lambda item: uniform("gold", annotator_id, item)), FIRST
    if mix.repeat_every and ordinal % mix.repeat_every == 0 and ordinal > REPEAT_AFTER:
        for attempt in range(5):
            earlier = 1 + int(uniform("repeat", annotator_id, ordinal, attempt) * (ordinal - REPEAT_AFTER))
            row = connection.execute(
                sa.select(assignments).where(
                    assignments.c.annotator_id == annotator_id, assignments.c.ordinal == earlier
                )
            ).first()
            if row is None or row.occasion != FIRST or row.state != "done":
                continue
            if connection.scalar(sa.select(queue.c.item_id).where(queue.c.item_id == row.item_id)) is None:
                continue  # a gold question
            times = connection.scalar(
                sa.select(sa.func.max(assignments.c.occasion)).where(
                    assignments.c.annotator_id == annotator_id, assignments.c.item_id == row.item_id
                )
            )
            if times == FIRST:
                return row.item_id, FIRST + 1
    return None


def _from_queue(connection: Connection, annotator_id: int) -> tuple[int, int] | None:
    """The first item with a free place that this annotator has not had."""
    found = connection.scalar(_NEXT_IN_QUEUE, {"who": annotator_id})
    if found is None:
        return None
    take_place(connection, found)
    return found, FIRST


def _give(
    connection: Connection, annotator_id: int, item_id: int, occasion: int, *, ordinal: int, now: float
) -> Assignment:
    asked = {"item": item_id, "who": annotator_id, "occasion_asked": occasion}
    lapsed = connection.execute(_ON_OCCASION, asked).first()
    if lapsed is not None:
        ordinal -= lapsed.ordinal == ordinal - 1  # the last one keeps its number: none is counted that was not done
        is_it = assignments.c.id == lapsed.id
        connection.execute(sa.update(assignments).where(is_it).values(state="open", given=now, ordinal=ordinal))
        return _assignment(connection.execute(_ON_OCCASION, asked).one())
    count = len(connection.scalar(_COMPLETIONS, {"item": item_id}) or [])
    fresh: dict[str, Any] = {
        "item_id": item_id,
        "annotator_id": annotator_id,
        "occasion": occasion,
        "ordinal": ordinal,
        "shown_order": shuffled(count, "shown", item_id, annotator_id, occasion),
        "state": "open",
        "given": now,
    }
    number = connection.execute(sa.insert(assignments), fresh).inserted_primary_key
    assert number is not None
    return Assignment(**{**fresh, "id": number[0], "shown_order": tuple(fresh["shown_order"]), "revision": 0})


def _hold_place(connection: Connection, row: Row[Any], place: Row[Any] | None, *, is_skipped: bool) -> bool:
    """Takes the place that an answer needs, where it was given back. False if it is another's by now."""
    if place is None:  # a gold question
        return True
    if row.occasion == ADJUDICATION:
        return place.disputed != 2 or latest_value(connection, row.id) is not None  # decided, and not by another
    if row.occasion == FIRST and row.state in GIVEN_BACK and not is_skipped:
        if place.remaining < 1:
            return False
        take_place(connection, row.item_id)
    return True


def latest_value(connection: Connection, assignment_id: int) -> Value | None:
    """The value of the highest revision; None: skipped, or not answered."""
    return connection.scalar(_LATEST_VALUE, {"this": assignment_id})


def _mark_disputed(connection: Connection, place: Row[Any]) -> None:
    """By the reviews of an item as they stand, the highest revision of each. `place` is locked."""
    rows = connection.execute(_REVIEWS, {"item": place.item_id}).all()
    values = [row.value for row in rows if row.value is not None and row.occasion == FIRST]
    is_decided = any(row.value is not None and row.occasion == ADJUDICATION for row in rows)
    state = 2 if is_decided else int(disputed(values))
    if state != place.disputed:
        connection.execute(sa.update(queue).where(queue.c.item_id == place.item_id).values(disputed=state))


def _assignment(row: Row[Any]) -> Assignment:
    return Assignment(
        id=row.id,
        item_id=row.item_id,
        annotator_id=row.annotator_id,
        occasion=row.occasion,
        ordinal=row.ordinal,
        shown_order=tuple(row.shown_order),
        state=row.state,
        given=row.given,
        revision=row.revision,
    )
