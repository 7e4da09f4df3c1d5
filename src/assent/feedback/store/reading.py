"""What the pages and exports read: items with their texts, progress, and the judgements that count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from assent.feedback.store.database import CHUNK, Database
from assent.feedback.store.items import get_setting, text_of
from assent.feedback.store.places import at_most, had
from assent.feedback.store.schema import (
    FIRST,
    assignments,
    completions,
    guidelines,
    identities,
    items,
    judgements,
    prompts,
    queue,
)
from assent.feedback.tasks import Value
from assent.types import Text


@dataclass(frozen=True, slots=True)
class Item:
    """`completions` and what goes with them stand in the stored order."""

    id: int
    task: str
    prompt_id: int
    prompt: Text
    tools: Any
    chat_template_kwargs: Mapping[str, Any]
    completions: tuple[Text, ...]
    models: tuple[str | None, ...]
    characters: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    gold: Value | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judgement that counts: the highest revision of its assignment, not skipped."""

    id: int
    item_id: int
    annotator_id: int
    occasion: int
    shown_order: tuple[int, ...]
    value: Value
    comment: str | None
    seconds: float | None
    guideline_id: int | None
    created: float


MOST_LEFT = 100
"""How far the items left for an annotator are counted: every page asks, and a store may hold a million."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Reviews over all annotators, and what this one did."""

    done: int
    total: int
    own: int
    own_seconds: float | None
    """Median of the annotator's last 50 items; None before the first."""

    left: int
    """Items that this annotator may still be given, counted up to `MOST_LEFT`."""

    @property
    def seconds_left(self) -> float | None:
        """Of this annotator; None where that is not known: before the first answer, or with too many items to count."""
        return None if self.own_seconds is None or self.left >= MOST_LEFT else self.own_seconds * self.left


# Statements of every page are built once: building one takes as long as running it.
_WHO = sa.bindparam("who", type_=sa.Integer)
_NUMBERS: Any = sa.bindparam("numbers", expanding=True)
_ITEMS = (
    sa.select(items, prompts.c.content.label("prompt"))
    .join(prompts, prompts.c.id == items.c.prompt_id)
    .where(items.c.id.in_(_NUMBERS))
)
_COMPLETIONS = sa.select(completions).where(completions.c.id.in_(_NUMBERS))
_TASK = sa.select(items.c.task).where(items.c.id == sa.bindparam("item", type_=sa.Integer))
_of_mine = assignments.c.annotator_id == _WHO
_is_open = sa.text("assignments.state = 'open'")
_last_50 = (
    sa.select(assignments.c.id).where(_of_mine).order_by(assignments.c.ordinal.desc()).limit(at_most(50)).subquery()
)
_SECONDS = sa.select(judgements.c.seconds).where(judgements.c.assignment_id.in_(sa.select(_last_50.c.id)))
_GIVEN = sa.select(
    sa.select(sa.func.max(assignments.c.ordinal)).where(_of_mine).scalar_subquery(),
    sa.select(sa.func.count()).select_from(assignments).where(_of_mine, _is_open).scalar_subquery(),
)
# written out, as in `labelling._NEXT_IN_QUEUE`: only then is the index of open items used
_some = (
    sa.select(queue.c.item_id)
    .where(sa.text("queue.remaining > 0"), ~had(_WHO, queue.c.item_id))
    .limit(at_most(MOST_LEFT))
    .subquery()
)
_LEFT = sa.select(
    sa.select(sa.func.count()).select_from(_some).scalar_subquery(),
    sa.select(sa.func.count())
    .select_from(assignments)
    .where(_of_mine, _is_open, assignments.c.occasion >= FIRST)
    .scalar_subquery(),
)


def read_items(connection: Connection, numbers: Sequence[int]) -> dict[int, Item]:
    found: dict[int, Item] = {}
    for start in range(0, len(numbers), CHUNK):
        rows = connection.execute(_ITEMS, {"numbers": list(numbers[start : start + CHUNK])}).all()
        wanted = sorted({number for row in rows for number in row.completion_ids})
        texts: dict[int, Any] = {}
        for first in range(0, len(wanted), CHUNK):
            own = connection.execute(_COMPLETIONS, {"numbers": wanted[first : first + CHUNK]})
            texts |= {one.id: one for one in own}
        found |= {row.id: _item(row, [texts[number] for number in row.completion_ids]) for row in rows}
    return found


def task_of(connection: Connection, item_id: int) -> str:
    return str(connection.scalar(_TASK, {"item": item_id}))


def _item(row: Any, own: Sequence[Any]) -> Item:
    return Item(
        id=row.id,
        task=row.task,
        prompt_id=row.prompt_id,
        prompt=text_of(row.prompt["prompt"]),
        tools=row.prompt.get("tools"),
        chat_template_kwargs=row.prompt.get("chat_template_kwargs", {}),
        completions=tuple(text_of(one.content) for one in own),
        models=tuple(one.model for one in own),
        characters=tuple(one.characters for one in own),
        logprobs=tuple(one.logprob for one in own),
        gold=row.gold,
        extra=row.extra or {},
    )


def _counting_query() -> Any:
    newer = judgements.alias()
    is_newest = ~(
        sa.select(newer.c.id)
        .where(newer.c.assignment_id == judgements.c.assignment_id, newer.c.revision > judgements.c.revision)
        .exists()
    )
    return (
        sa.select(judgements, assignments.c.occasion, assignments.c.shown_order)
        .join(assignments, assignments.c.id == judgements.c.assignment_id)
        .where(judgements.c.value.is_not(None), is_newest)
        .order_by(judgements.c.id)
    )


def _judgement(row: Any) -> Judgement:
    return Judgement(
        id=row.id,
        item_id=row.item_id,
        annotator_id=row.annotator_id,
        occasion=row.occasion,
        shown_order=tuple(row.shown_order),
        value=row.value,
        comment=row.comment,
        seconds=row.seconds,
        guideline_id=row.guideline_id,
        created=row.created,
    )


def counting(connection: Connection) -> Iterator[Judgement]:
    """The judgements that count, in the order in which they were made, of gold questions and repeats too."""
    for row in connection.execute(_counting_query().execution_options(yield_per=1000)):
        yield _judgement(row)


def votes_on(connection: Connection, item_id: int) -> list[Judgement]:
    """The reviews of one item that count: no repeats and no adjudication."""
    query = _counting_query().where(judgements.c.item_id == item_id, assignments.c.occasion == FIRST)
    return [_judgement(row) for row in connection.execute(query)]


def names_of(connection: Connection) -> dict[int, str]:
    """Names of the annotators that have one; an erased one has none."""
    rows = connection.execute(sa.select(identities.c.annotator_id, identities.c.name))
    return {row.annotator_id: row.name for row in rows}


def totals(database: Database) -> tuple[int, int]:
    """Reviews that are done or being done, and reviews in all."""
    with database.reading() as connection:
        row = connection.execute(
            sa.select(sa.func.sum(queue.c.reviews), sa.func.sum(queue.c.remaining)).select_from(queue)
        ).one()
        is_open = connection.scalar(
            sa.select(sa.func.count())
            .select_from(assignments)
            .where(sa.text("assignments.state = 'open'"), assignments.c.occasion == FIRST)
        )
    total, remaining = int(row[0] or 0), int(row[1] or 0)
    return max(0, total - remaining - int(is_open or 0)), total


def reviews_left(connection: Connection, numbers: Sequence[int]) -> int:
    """Reviews of these items that are not done: nobody has begun them, or somebody is at them."""
    left = 0
    for start in range(0, len(numbers), CHUNK):
        part = numbers[start : start + CHUNK]
        free = sa.select(sa.func.sum(queue.c.remaining)).where(queue.c.item_id.in_(part))
        begun = sa.select(sa.func.count()).where(
            assignments.c.item_id.in_(part), assignments.c.occasion == FIRST, assignments.c.state == "open"
        )
        left += int(connection.scalar(free) or 0) + int(connection.scalar(begun) or 0)
    return left


def own_pace(connection: Connection, annotator_id: int) -> tuple[int, float | None]:
    """Items that an annotator was given and answered or skipped, and the median seconds of the last 50."""
    seconds = [value for value in connection.scalars(_SECONDS, {"who": annotator_id}) if value is not None]
    given, is_open = connection.execute(_GIVEN, {"who": annotator_id}).one()
    return int(given or 0) - int(is_open), median(seconds) if seconds else None


def own_left(connection: Connection, annotator_id: int) -> int:
    """Items with a free place that this annotator may be given, and the one in hand; at most `MOST_LEFT`."""
    free, in_hand = connection.execute(_LEFT, {"who": annotator_id}).one()
    return min(MOST_LEFT, int(free) + int(in_hand))


def current_guidelines(connection: Connection) -> str | None:
    version = get_setting(connection, "guidelines")
    if version is None:
        return None
    return connection.scalar(sa.select(guidelines.c.text).where(guidelines.c.id == version))
