"""The places of an item: how many reviews it still needs, and who may take one."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from assent.feedback.store.database import Database
from assent.feedback.store.schema import FIRST, GIVEN_BACK, assignments, judgements, queue

_TAKE = (
    sa.update(queue)
    .where(queue.c.item_id == sa.bindparam("item", type_=sa.Integer))
    .values(remaining=queue.c.remaining - 1)
)


def at_most(count: int) -> Any:
    """A LIMIT that is written out. Of a parameter PostgreSQL plans for a tenth of all rows, by reading them all."""
    return sa.literal_column(str(count), sa.Integer)


def take_place(connection: Connection, item_id: int) -> None:
    connection.execute(_TAKE, {"item": item_id})


def had(annotator_id: Any, item_id: Any) -> Any:
    """Whether an annotator was given this item before, and did not only leave it open too long."""
    own = sa.select(assignments.c.id).where(
        assignments.c.item_id == item_id,
        assignments.c.annotator_id == annotator_id,
        # written out: of a parameter PostgreSQL guesses how many rows are left
        sa.text("assignments.state != 'lapsed'"),
    )
    return own.exists()


def give_back(connection: Connection, item_id: int) -> None:
    """After a place was given back: it is free, unless the item has more reviews than it needs by now."""
    # locked first: whoever takes a place at the same time is counted then
    connection.execute(sa.select(queue.c.item_id).where(queue.c.item_id == item_id).with_for_update())
    free = _free_places(queue.c.reviews)
    connection.execute(sa.update(queue).where(queue.c.item_id == item_id).values(remaining=free))


def _free_places(reviews: Any) -> Any:
    """Of each item in the queue: its places that nobody has taken. Judgements from files take none."""
    is_from_file = (
        sa.select(judgements.c.id)
        .where(judgements.c.assignment_id == assignments.c.id, judgements.c.source.is_not(None))
        .exists()
    )
    taken = (
        sa.select(sa.func.count())
        .select_from(assignments)
        .where(
            assignments.c.item_id == queue.c.item_id,
            assignments.c.occasion == FIRST,
            assignments.c.state.not_in(GIVEN_BACK),
            ~is_from_file,
        )
        .scalar_subquery()
    )
    return sa.case((taken < reviews, reviews - taken), else_=0)


def set_reviews(database: Database, reviews: int) -> None:
    """Every item gets this many reviews. Reviews that are done stay, and count."""
    is_other = queue.c.reviews != reviews
    with database.writing() as connection:
        connection.execute(sa.select(queue.c.item_id).where(is_other).with_for_update())
        free = _free_places(sa.literal(reviews))
        connection.execute(sa.update(queue).where(is_other).values(reviews=reviews, remaining=free))
