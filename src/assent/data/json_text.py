"""JSON in which no object has a key twice: `json.loads` would keep the last one without a word."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from assent.data import texts
from assent.data.texts import RowError


class _Objects:
    """`object_pairs_hook` that makes dicts and keeps those that had a key twice, with that key."""

    def __init__(self) -> None:
        self.twice: list[tuple[dict[str, Any], str]] = []

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            seen: set[str] = set()
            key = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            self.twice.append((made, key))
        return made


def loads(text: str) -> Any:
    """The value. Raises RowError where an object has a key twice, and what `json.loads` raises."""
    objects = _Objects()
    value = json.loads(text, object_pairs_hook=objects)
    if objects.twice:
        raise _twice(*objects.twice[0])
    return value


def load_rows(text: str) -> Any:
    """The value; where it is an array, a RowError stands in the place of each row that has a key twice."""
    objects = _Objects()
    value = json.loads(text, object_pairs_hook=objects)
    if not objects.twice:
        return value
    bad = {id(made): (made, key) for made, key in objects.twice}
    if not isinstance(value, list):
        raise _twice(*objects.twice[0])
    found = ((next((bad[id(part)] for part in _objects_of(row) if id(part) in bad), None), row) for row in value)
    return [row if twice is None else _twice(*twice) for twice, row in found]


def _objects_of(value: object) -> Iterator[object]:
    """Every object within a JSON value, itself included."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            yield value
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def _twice(made: dict[str, Any], key: str) -> RowError:
    return RowError(
        "a key twice",
        f"the key {texts.shorten(key, 40)} stands twice in one object",
        got=f"an object with the keys {', '.join(made)}; the second value is {texts.shorten(made[key])}",
        expected="each key once",
        fix="keep one of the two, or give them different names",
    )
