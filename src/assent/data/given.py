"""Data that a Python caller holds in memory: tables of `datasets`, pandas DataFrames, lists of rows or of PromptGroups.

While a call runs, the data has a name that follows from its content, and that name stands wherever a path may.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from assent.data.tables import plain_row, undecoded
from assent.data.unread import refuse_group
from assent.errors import DataError
from assent.types import PromptGroup

_HELD: dict[str, Any] = {}
_CALLS: Counter[str] = Counter()
"""Calls that use the data now, by its name: several may run in threads."""


@contextmanager
def holding() -> Iterator[Callable[[Any], str]]:
    """Gives a function that holds data in memory and returns its name. After the block the names are forgotten."""
    names: list[str] = []

    def hold(value: Any) -> str:
        held, digest, count = _held(value)
        name = f"{count:,} rows in memory, SHA-256 {digest[:12]}"
        names.append(name)
        _HELD[name] = held
        _CALLS[name] += 1
        return name

    try:
        yield hold
    finally:
        for name in names:
            _CALLS[name] -= 1
            if not _CALLS[name]:
                _HELD.pop(name, None)


def find(name: str) -> Any:
    """What is held under the name: a table, a DatasetDict, or a list of rows or of groups; None if nothing is."""
    return _HELD.get(name)


def is_data(value: object) -> bool:
    """Whether it is data in memory, and not the name of some."""
    if isinstance(value, list | tuple) or _is_frame(value):
        return True
    return _is_table(value) or (isinstance(value, Sequence) and not isinstance(value, str | bytes))


def _is_frame(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "pandas" and type(value).__name__ == "DataFrame"


def _is_table(value: object) -> bool:
    """A class of `datasets`, which is not imported to find out."""
    return type(value).__module__.partition(".")[0] == "datasets"


def _held(value: Any) -> tuple[Any, str, int]:
    """The data as it is read, the SHA-256 of its rows, and their number."""
    if _is_frame(value):
        value = _of_frame(value)
    if isinstance(value, Mapping):  # DatasetDict
        parts = [(name, *_held(table)[1:]) for name, table in value.items()]
        whole = "\n".join(f"{name} {digest}" for name, digest, _ in parts)
        return value, hashlib.sha256(whole.encode()).hexdigest(), sum(count for *_, count in parts)
    if _is_table(value):
        if not hasattr(value, "__len__"):
            raise DataError(
                "a streamed dataset cannot be read twice, and training reads its rows in its own order",
                got=type(value).__name__,
                fix="take the rows that are needed: datasets.Dataset.from_list(list(stream.take(1000)))",
            )
        return value, rows_hash(undecoded(value)), len(value)
    rows = list(value)
    if all(isinstance(row, Mapping) for row in rows):
        return rows, rows_hash(rows), len(rows)
    if not all(isinstance(row, PromptGroup) for row in rows):
        other = next(row for row in rows if not isinstance(row, PromptGroup))
        raise DataError(
            "the data holds something that is no row",
            got=f"{type(other).__name__} {str(other)[:60]!r}",
            expected="dictionaries with a file's columns, or PromptGroups, and not both",
        )
    for group in rows:
        refuse_group(group)
    return (value if isinstance(value, Sequence) else rows), groups_hash(rows), len(rows)


def groups_hash(groups: Iterable[PromptGroup]) -> str:
    """SHA-256 of groups that no rows are known of."""
    digest = hashlib.sha256()
    for group in groups:
        digest.update(repr(group).encode())
    return digest.hexdigest()


def rows_hash(rows: Any) -> str:
    """SHA-256 of rows; the same for a table and for a list of the same rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(plain_row(row), sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _of_frame(frame: Any) -> Any:
    import datasets

    try:
        return datasets.Dataset.from_pandas(frame, preserve_index=False)
    except (ValueError, TypeError, OSError) as error:  # pyarrow's errors are ValueErrors and TypeErrors
        raise DataError(
            f"the DataFrame cannot be read: {' '.join(str(error).split())[:200]}",
            expected="columns that each hold one type",
        ) from None
