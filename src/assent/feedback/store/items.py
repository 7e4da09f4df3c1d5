"""Adding prompts, completions and items. What is there already stays as it is, so adding a file again adds nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from assent.data.texts import as_plain, last_content, parse_text
from assent.feedback.store.database import CHUNK, Database
from assent.feedback.store.schema import completions, guidelines, items, prompts, queue, settings
from assent.feedback.tasks import Candidate, NewItem, digest, uniform
from assent.types import PromptGroup, Text


def add_items(database: Database, new: Sequence[NewItem], *, task: str, reviews: int, seed: int = 0) -> int:
    """Adds items that people are asked about, and returns how many were new.

    reviews   judgements that each item is to have
    """
    new = [item.canonical() for item in new]
    with database.writing() as connection:
        added, numbers = add_within(database, connection, new, task=task)
        waiting = [
            {
                "item_id": numbers[key],
                "position": _position(item, key, seed),
                "reviews": reviews,
                "remaining": reviews,
                "disputed": 0,
            }
            for item in new
            if item.gold is None and (key := item_key(item, task))
        ]
        database.insert_new(connection, queue, waiting)
    return added


def add_within(
    database: Database, connection: Connection, new: Sequence[NewItem], *, task: str
) -> tuple[int, dict[str, int]]:
    """Adds canonical items that nobody is asked about. How many were new, and each key's number."""
    now = database.clock()
    keyed = _texts(database, connection, new, now)
    rows: list[dict[str, Any]] = [
        {
            "key": item_key(item, task),
            "task": task,
            "prompt_id": prompt_id,
            "completion_ids": ids,
            "gold": item.gold,
            "extra": item.extra,
            "created": now,
        }
        for item, (prompt_id, ids) in zip(new, keyed, strict=True)
    ]
    added = database.insert_new(connection, items, rows)
    return added, ids_by_key(connection, items, [row["key"] for row in rows])


def item_key(item: NewItem, task: str) -> str:
    """What makes an item the same as another: task, prompt, completions, and whether its answer is known.

    Where a row has other columns they belong to it, so that an export gives each row its own.
    """
    prompt_key = digest(_prompt_content(item))
    return digest([task, prompt_key, [_completion_key(prompt_key, one) for one in item.completions], item.gold,
                   item.extra])  # fmt: skip


def _position(item: NewItem, key: str, seed: int) -> float:
    return uniform(seed, "order", key) if item.priority is None else item.priority


def _texts(
    database: Database, connection: Connection, new: Sequence[NewItem], now: float
) -> list[tuple[int, list[int]]]:
    """For each item the ids of its prompt and of its completions."""
    contents = [_prompt_content(item) for item in new]
    prompt_keys = [digest(content) for content in contents]
    database.insert_new(
        connection,
        prompts,
        [{"key": key, "content": content, "created": now} for key, content in zip(prompt_keys, contents, strict=True)],
    )
    prompt_ids = ids_by_key(connection, prompts, prompt_keys)
    rows: dict[str, dict[str, Any]] = {}
    keys: list[list[str]] = []
    for item, prompt_key in zip(new, prompt_keys, strict=True):
        own = [_completion_key(prompt_key, one) for one in item.completions]
        keys.append(own)
        for key, one in zip(own, item.completions, strict=True):
            rows.setdefault(key, _completion_row(key, prompt_ids[prompt_key], one, now))
    database.insert_new(connection, completions, list(rows.values()))
    completion_ids = ids_by_key(connection, completions, list(rows))
    return [
        (prompt_ids[prompt_key], [completion_ids[key] for key in own])
        for prompt_key, own in zip(prompt_keys, keys, strict=True)
    ]


def _prompt_content(item: NewItem | PromptGroup) -> dict[str, Any]:
    content: dict[str, Any] = {"prompt": as_plain(item.prompt)}
    content |= {"tools": item.tools} if item.tools else {}
    return content | ({"chat_template_kwargs": dict(item.chat_template_kwargs)} if item.chat_template_kwargs else {})


def _completion_key(prompt_key: str, one: Candidate) -> str:
    """Of the text alone: the same text of two models is one completion, so that an item is not judged twice."""
    return digest([prompt_key, as_plain(one.text)])


def _completion_row(key: str, prompt_id: int, one: Candidate, now: float) -> dict[str, Any]:
    return {
        "key": key,
        "prompt_id": prompt_id,
        "content": as_plain(one.text),
        "characters": len(last_content(one.text)),
        "model": one.model,
        "fingerprint": one.fingerprint,
        "sampling": None if one.sampling is None else dict(one.sampling),
        "logprob": one.logprob,
        "created": now,
    }


def ids_by_key(connection: Connection, table: sa.Table, keys: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    wanted = list(dict.fromkeys(keys))
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        rows = connection.execute(sa.select(table.c.key, table.c.id).where(table.c.key.in_(part)))
        found.update((key, number) for key, number in rows)
    return found


def items_of(connection: Connection, groups: Iterable[PromptGroup]) -> set[int]:
    """Comparisons and lists to rank that hold completions of these rows alone; no gold questions."""
    prompt_keys, completion_keys = [], []
    for group in groups:
        prompt_keys.append(key := digest(_prompt_content(group)))
        completion_keys += [_completion_key(key, Candidate(text=text)) for text in group.completions]
    own = set(ids_by_key(connection, completions, completion_keys).values())
    numbers = list(ids_by_key(connection, prompts, prompt_keys).values())
    found: set[int] = set()
    for start in range(0, len(numbers), CHUNK):
        query = sa.select(items.c.id, items.c.completion_ids).where(
            items.c.prompt_id.in_(numbers[start : start + CHUNK]),
            items.c.task.in_(("compare", "rank")),
            items.c.gold.is_(None),
        )
        found |= {row.id for row in connection.execute(query) if own.issuperset(row.completion_ids)}
    return found


def text_of(content: Any) -> Text:
    """A stored prompt or completion as a text."""
    return parse_text(content, "text")


def set_order(database: Database, positions: Iterable[tuple[int, float]]) -> None:
    """Gives items another place in the queue: (item, position), lower first."""
    rows = [{"of": item, "place": place} for item, place in positions]
    update = sa.update(queue).where(queue.c.item_id == sa.bindparam("of")).values(position=sa.bindparam("place"))
    with database.writing() as connection:
        for start in range(0, len(rows), CHUNK):
            connection.execute(update, rows[start : start + CHUNK])


def add_guidelines(database: Database, text: str) -> int:
    """The version of the instructions with this text; a new one if the text is new. It is the current one from now."""
    key = digest(text)
    with database.writing() as connection:
        database.insert_new(connection, guidelines, [{"key": key, "text": text, "created": database.clock()}])
        version = ids_by_key(connection, guidelines, [key])[key]
        put_setting(connection, "guidelines", version)
    return version


_SETTING = sa.select(settings.c.value).where(settings.c.name == sa.bindparam("asked", type_=sa.String))


def get_setting(connection: Connection, name: str) -> Any:
    return connection.scalar(_SETTING, {"asked": name})


def put_setting(connection: Connection, name: str, value: Any) -> None:
    connection.execute(sa.delete(settings).where(settings.c.name == name))
    connection.execute(sa.insert(settings).values(name=name, value=value))
