"""The tables. `migrations/` makes them; a test compares the two.

Judgements are only ever added: a change of mind is another row with the next `revision`. What is updated in place is
what follows from other rows (`queue`, the state of an `assignment`) and what an erasure removes (`identities`).
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

FIRST, ADJUDICATION = 0, -1
"""Occasions of an assignment. 1 and more are repeats."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class Json(TypeDecorator[Any]):
    """A JSON value as ASCII text, so that every string that JSON can hold is kept, NUL and lone surrogates too."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else json.loads(value)


def _of(table: str, **options: Any) -> Column[Any]:
    """A column that refers to a row of `table`."""
    name = f"{table.rstrip('s')}_id" if table != "identities" else "identity_id"
    return Column(name, ForeignKey(f"{table}.id"), nullable=False, **options)


settings = Table("settings", metadata, Column("name", String(64), primary_key=True), Column("value", Json))

guidelines = Table(
    "guidelines",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("text", Json, nullable=False),
    Column("created", Float, nullable=False),
)
"""Versions of the instructions. Each judgement names the one that its annotator saw."""

annotators = Table(
    "annotators", metadata, Column("id", Integer, primary_key=True), Column("created", Float, nullable=False)
)

identities = Table(
    "identities",
    metadata,
    _of("annotators", primary_key=True, autoincrement=False),
    Column("name", String(100), nullable=False, unique=True),
    Column("role", String(20), nullable=False),
    Column("password", Text),
    Column("created", Float, nullable=False),
)
"""Who an annotator is. Erasure removes this row and leaves a tombstone."""

tombstones = Table(
    "tombstones",
    metadata,
    _of("annotators", primary_key=True, autoincrement=False),
    Column("created", Float, nullable=False),
)

invitations = Table(
    "invitations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("name", String(100), nullable=False),
    Column("role", String(20), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", Float),
)

prompts = Table(
    "prompts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("content", Json, nullable=False),
    Column("created", Float, nullable=False),
)
"""`content`: prompt, and where the row has them tools and chat_template_kwargs."""

completions = Table(
    "completions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    _of("prompts", index=True),
    Column("content", Json, nullable=False),
    Column("characters", Integer, nullable=False),
    Column("model", Text),
    Column("fingerprint", Text),
    Column("sampling", Json),
    Column("logprob", Float),
    Column("created", Float, nullable=False),
)

items = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("task", String(20), nullable=False),
    _of("prompts", index=True),
    Column("completion_ids", Json, nullable=False),
    Column("gold", Json),
    Column("extra", Json),
    Column("created", Float, nullable=False),
)
"""What is judged: some completions of one prompt, in an order that never changes. `gold`: the known answer."""

Index("ix_items_gold", items.c.id, sqlite_where=items.c.gold.is_not(None), postgresql_where=items.c.gold.is_not(None))

queue = Table(
    "queue",
    metadata,
    _of("items", primary_key=True, autoincrement=False),
    Column("position", Float, nullable=False),
    Column("reviews", Integer, nullable=False),
    Column("remaining", Integer, nullable=False),
    Column("disputed", Integer, nullable=False),
)
"""`remaining`: reviews that nobody has or does. `disputed`: 1 the reviews differ, 2 an adjudicator has decided."""

_open = queue.c.remaining > 0
Index("ix_queue_open", queue.c.position, sqlite_where=_open, postgresql_where=_open)
_disputed = queue.c.disputed == 1
Index("ix_queue_disputed", queue.c.item_id, sqlite_where=_disputed, postgresql_where=_disputed)

assignments = Table(
    "assignments",
    metadata,
    Column("id", Integer, primary_key=True),
    _of("items"),
    _of("annotators"),
    Column("occasion", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("shown_order", Json, nullable=False),
    Column("state", String(10), nullable=False),
    Column("given", Float, nullable=False),
    UniqueConstraint("item_id", "annotator_id", "occasion"),
    UniqueConstraint("annotator_id", "ordinal"),
)
"""An item that was given to an annotator. `occasion`: 0 the first time, 1 and more a repeat, -1 an adjudication.

`ordinal` counts the annotator's assignments. `shown_order`: places of the completions as shown. `state`: open, done,
free (skipped) or lapsed (left open too long).
"""
GIVEN_BACK = ("free", "lapsed")
"""States in which an assignment takes no place of its item."""
_is_open = assignments.c.state == "open"
Index("ix_assignments_open", assignments.c.annotator_id, sqlite_where=_is_open, postgresql_where=_is_open)
Index("ix_assignments_given", assignments.c.given, sqlite_where=_is_open, postgresql_where=_is_open)

judgements = Table(
    "judgements",
    metadata,
    Column("id", Integer, primary_key=True),
    _of("assignments"),
    Column("revision", Integer, nullable=False),
    _of("items", index=True),
    _of("annotators"),
    Column("value", Json),
    Column("comment", Json),
    Column("seconds", Float),
    Column("guideline_id", ForeignKey("guidelines.id")),
    Column("source", Text),
    Column("created", Float, nullable=False),
    UniqueConstraint("assignment_id", "revision"),
)
"""`value`: fields of a Preference over the item's completions; null: skipped. The highest revision counts."""

exports = Table(
    "exports",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("file", Text, nullable=False),
    Column("manifest", Json, nullable=False),
    Column("created", Float, nullable=False),
)
