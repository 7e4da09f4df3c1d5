"""Judgements from files into the store: any column layout, with the annotators that its rows name."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from assent.data.texts import counted
from assent.errors import DataError
from assent.feedback.store.database import CHUNK, Database
from assent.feedback.store.items import add_within, item_key
from assent.feedback.store.people import ensure_within
from assent.feedback.store.schema import FIRST, annotators, assignments, judgements
from assent.feedback.tasks import Candidate, NewItem, digest, value_of
from assent.types import PromptGroup

LONGEST_NAME = 100
JOINERS = dict.fromkeys((0x200C, 0x200D))
"""They shape the letters beside them, in Persian and in languages of India, and are not seen themselves."""
TASK_OF = {"ranking": "rank", "scores": "rate", "thumbs": "thumbs", "step_labels": "steps"}


def import_groups(
    database: Database, groups: Sequence[PromptGroup], *, source: str
) -> tuple[dict[str, int], list[str]]:
    """Adds rows as judged items; a row without a preference adds its texts alone. The same file twice adds nothing.
    It is added whole or not at all.

    source   the annotator of rows that name none

    Returns counts (`items`, `judgements`) and lines of text. Raises DataError where no row has completions, and for an
    annotator's name that cannot be shown.
    """
    usable = [group for group in groups if group.completions]
    if not usable:
        raise DataError("there is nothing to import", got=f"{counted(len(groups), 'row')} without completions")
    by_task: dict[str, list[tuple[NewItem, str]]] = {}
    for group in usable:
        item = item_of(group)
        name = _name((group.preference.annotator if group.preference else None) or source)
        by_task.setdefault(_task_of(group), []).append((item.canonical(), name))
    added = judged = 0
    with database.writing() as connection:
        for task, pairs in by_task.items():
            new, numbers = add_within(database, connection, [item for item, _ in pairs], task=task)
            added += new
            judged += _judge(database, connection, pairs, numbers, task, source)
    lines = [f"{counted(len(usable), 'row')}: {counted(added, 'new item')}, {counted(judged, 'new judgement')}"]
    if len(usable) < len(groups):
        lines.append(f"{counted(len(groups) - len(usable), 'row')} without completions left out")
    return {"rows": len(usable), "items": added, "judgements": judged}, lines


def _name(name: str) -> str:
    """An annotator's name as the store holds it. It may be a judge's: a model and its address. A longer one is cut."""
    name = "".join(" " if unicodedata.category(one) == "Zs" else one for one in name.strip()).strip()
    seen = name.translate(JOINERS)
    if not seen.isprintable() or not seen:
        raise DataError("this cannot be an annotator's name", got=repr(name[:40]), expected="characters that are seen")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]} {digest(name)[:8]}"


def _task_of(group: PromptGroup) -> str:
    kind = group.preference.kind if group.preference else ""
    return "compare" if kind == "ranking" and len(group.completions) == 2 else TASK_OF.get(kind, "none")


def item_of(group: PromptGroup) -> NewItem:
    columns = dict(group.columns)
    comment = columns.pop("comment") if isinstance(columns.get("comment"), str) else None
    extra: dict[str, Any] = {"columns": columns} if columns else {}
    extra |= {"logps": list(group.logps)} if group.logps else {}
    extra |= {"steps": [list(steps) for steps in group.steps]} if group.steps else {}
    return NewItem(
        prompt=group.prompt,
        completions=tuple(Candidate(text=text) for text in group.completions),
        tools=group.tools and list(group.tools),
        chat_template_kwargs=group.chat_template_kwargs,
        extra=extra or None,
        value=value_of(group),
        comment=comment or None,
    )


def _judge(
    database: Database,
    connection: Connection,
    pairs: Sequence[tuple[NewItem, str]],
    numbers: Mapping[str, int],
    task: str,
    source: str,
) -> int:
    """Adds the judgements that are not there yet. `numbers`: the items' numbers by their keys."""
    judged = [(item, name) for item, name in pairs if item.value is not None]
    if not judged:
        return 0
    people = {name: ensure_within(database, connection, name).id for name in {name for _, name in judged}}
    # who is among them is given no item meanwhile (PostgreSQL; SQLite has one writer anyway)
    locked = sa.select(annotators.c.id).where(annotators.c.id.in_(people.values())).order_by(annotators.c.id)
    connection.execute(locked.with_for_update())
    given = _given(connection, list(numbers.values()))
    occasions = _occasions(connection, list(numbers.values()))
    ordinals = _ordinals(connection, list(people.values()))
    count = 0
    for item, name in judged:
        pair = numbers[item_key(item, task)], people[name]
        earlier = given.setdefault(pair, [])
        if item.value in earlier:
            continue
        ordinals[pair[1]] += 1
        occasions[pair] = occasions.get(pair, FIRST - 1) + 1
        _insert(connection, database.clock(), item, pair, occasions[pair], ordinals[pair[1]], source)
        earlier.append(item.value)
        count += 1
    return count


def _insert(
    connection: Connection, now: float, item: NewItem, pair: tuple[int, int], occasion: int, ordinal: int, source: str
) -> None:
    number, annotator = pair
    assignment = connection.execute(
        sa.insert(assignments).values(
            item_id=number,
            annotator_id=annotator,
            occasion=occasion,
            ordinal=ordinal,
            shown_order=list(range(len(item.completions))),
            state="done",
            given=now,
        )
    ).inserted_primary_key
    assert assignment is not None
    connection.execute(
        sa.insert(judgements).values(
            assignment_id=assignment[0],
            revision=0,
            item_id=number,
            annotator_id=annotator,
            value=item.value,
            comment=item.comment,
            source=source,
            created=now,
        )
    )


def _given(connection: Connection, numbers: Sequence[int]) -> dict[tuple[int, int], list[Any]]:
    """What each annotator has said of each of these items already."""
    found: dict[tuple[int, int], list[Any]] = {}
    for start in range(0, len(numbers), CHUNK):
        query = sa.select(judgements.c.item_id, judgements.c.annotator_id, judgements.c.value)
        for row in connection.execute(query.where(judgements.c.item_id.in_(numbers[start : start + CHUNK]))):
            found.setdefault((row.item_id, row.annotator_id), []).append(row.value)
    return found


def _occasions(connection: Connection, numbers: Sequence[int]) -> dict[tuple[int, int], int]:
    """The last occasion on which each annotator was given each of these items, whether it was answered or not."""
    found: dict[tuple[int, int], int] = {}
    item, annotator, last = assignments.c.item_id, assignments.c.annotator_id, sa.func.max(assignments.c.occasion)
    for start in range(0, len(numbers), CHUNK):
        query = sa.select(item, annotator, last).where(item.in_(numbers[start : start + CHUNK]))
        of_reviews = query.where(assignments.c.occasion >= FIRST).group_by(item, annotator)
        found |= {(row[0], row[1]): row[2] for row in connection.execute(of_reviews)}
    return found


def _ordinals(connection: Connection, people: Sequence[int]) -> dict[int, int]:
    query = (
        sa.select(annotators.c.id, sa.func.coalesce(sa.func.max(assignments.c.ordinal), 0))
        .outerjoin(assignments, assignments.c.annotator_id == annotators.c.id)
        .where(annotators.c.id.in_(people))
        .group_by(annotators.c.id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}
