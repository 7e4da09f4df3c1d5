"""Token groups in a memory-mapped Arrow file: a row is read when it is asked for, and none is kept in memory.

    rows.arrow    one record for each group, in batches of `BLOCK`
    facts.json    what was said of the rows when they were tokenized, and the file's size and SHA-256

Legend: K completions of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from assent.errors import StorageError
from assent.models.batch import TokenCompletion, TokenGroup
from assent.runs.files import from_json, replacing, sha256_of, storage_errors, write_json

ROWS, FACTS = "rows.arrow", "facts.json"
BLOCK = 1024
"""Groups of a record batch."""
VALUES = ("margin", "chosen_probability", "weight")
NUMBERS = ("logp", "rank", "score", "thumb")
TOKENS = ("step_label",)
_DOUBLES = pa.list_(pa.float64())
SCHEMA = pa.schema([
    ("prompt", pa.list_(pa.int32())),
    ("ids", pa.list_(pa.list_(pa.int32()))),
    ("mask", pa.list_(pa.list_(pa.bool_()))),
    ("truncated", pa.list_(pa.bool_())),
    ("step_ends", pa.list_(pa.list_(pa.int32()))),
    ("source", pa.string()),
    *((name, pa.float64()) for name in VALUES),
    *((name, _DOUBLES) for name in NUMBERS),
    *((name, pa.list_(_DOUBLES)) for name in TOKENS),
])  # fmt: skip


def _record(group: TokenGroup) -> dict[str, Any]:
    completions = group.completions
    row: dict[str, Any] = {
        "prompt": group.prompt_ids,
        "ids": [c.ids for c in completions],
        "mask": [c.mask for c in completions],
        "truncated": [c.truncated for c in completions],
        "step_ends": [c.step_ends for c in completions],
        "source": group.source,
    }
    return row | dict(group.value) | dict(group.completion) | dict(group.token)


def _group(row: Mapping[str, Any]) -> TokenGroup:
    completions = tuple(
        TokenCompletion(tuple(ids), None if mask is None else tuple(mask), truncated, tuple(ends))
        for ids, mask, truncated, ends in zip(row["ids"], row["mask"], row["truncated"], row["step_ends"], strict=True)
    )
    return TokenGroup(
        tuple(row["prompt"]),
        completions,
        token={n: [np.asarray(part, np.float64) for part in row[n]] for n in TOKENS if row[n] is not None},
        completion={n: np.asarray(row[n], np.float64) for n in NUMBERS if row[n] is not None},
        value={n: row[n] for n in VALUES if row[n] is not None},
        source=row["source"],
    )


class StoreWriter:
    """Writes a store into `folder`, which has it when the block ends without an error."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, 0
        self.values: set[str] = set()
        self.numbers: set[str] = set()
        self.weighted = False
        """Whether any row has a weight other than 1."""
        self._waiting: list[dict[str, Any]] = []

    def write(self, blocks: Iterable[Sequence[TokenGroup]], facts: Callable[[], Mapping[str, Any]]) -> None:
        """Writes all groups, then what `facts` gives when no group is left. Raises StorageError."""
        path = self.folder / ROWS
        with storage_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (
                replacing(path) as temporary,
                pa.OSFile(str(temporary), "wb") as sink,
                pa.ipc.new_file(sink, SCHEMA) as file,
            ):
                for block in blocks:
                    self._add(block)
                    while len(self._waiting) >= BLOCK:
                        self._flush(file, BLOCK)
                self._flush(file, len(self._waiting))
        written = {"rows": self.rows, "values": sorted(self.values), "numbers": sorted(self.numbers)}
        sealed = {"weighted": self.weighted, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        write_json(self.folder / FACTS, {**facts(), **written, **sealed})

    def _add(self, block: Sequence[TokenGroup]) -> None:
        for group in block:
            self.values |= group.value.keys()
            self.numbers |= group.completion.keys()
            self.weighted |= group.value.get("weight", 1.0) != 1.0
            self._waiting.append(_record(group))
        self.rows += len(block)

    def _flush(self, file: Any, rows: int) -> None:
        if rows:
            file.write_batch(pa.RecordBatch.from_pylist(self._waiting[:rows], schema=SCHEMA))
            del self._waiting[:rows]


def stored_facts(folder: Path) -> dict[str, Any] | None:
    """The facts of a store that is whole to the last byte; None if there is none."""
    path = folder / ROWS
    try:
        facts = dict(from_json((folder / FACTS).read_bytes()))
        if path.stat().st_size == facts["bytes"] and sha256_of(path) == facts["sha256"]:
            return facts
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


class StoredGroups(Sequence[TokenGroup]):
    """The groups of a store, in their order.

    unsaid   the values of rows without a number that other rows have
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], *, unsaid: Mapping[str, float]) -> None:
        self.path, self.facts, self._rows = folder / ROWS, facts, int(facts["rows"])
        self._values = {name: unsaid[name] for name in facts["values"]}
        self._numbers = list(facts["numbers"])
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(self.path)))
        except (OSError, pa.ArrowInvalid) as error:
            raise StorageError(f"{self.path} cannot be read", got=error, fix="delete it: it is made again") from error

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, index: int) -> TokenGroup: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenGroup]: ...
    def __getitem__(self, index: int | slice) -> TokenGroup | list[TokenGroup]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # an IndexError ends an iteration
        batch, row = divmod(place, BLOCK)
        [record] = self._file.get_batch(batch).slice(row, 1).to_pylist()
        group = _group(record)
        if self._values.keys() == group.value.keys() and set(self._numbers) == group.completion.keys():
            return group
        nothing = {name: np.full(len(group.completions), np.nan) for name in self._numbers}
        return replace(group, value={**self._values, **group.value}, completion={**nothing, **group.completion})

    def counts(self) -> np.ndarray:
        """(len,) the number of completions of each group."""
        batches = (self._file.get_batch(i).column("ids") for i in range(self._file.num_record_batches))
        return np.concatenate([np.diff(column.offsets.to_numpy()) for column in batches])

    def numbers(self, name: str) -> np.ndarray:
        """(S,) one of `NUMBERS` of all completions, in the groups' order; all rows must have it."""
        batches = (self._file.get_batch(i).column(name) for i in range(self._file.num_record_batches))
        return np.concatenate([column.flatten().to_numpy() for column in batches])


def counts_of(groups: Sequence[TokenGroup]) -> np.ndarray:
    """(len,) the number of completions of each group, wherever the groups are."""
    if isinstance(groups, StoredGroups | Chosen):
        return groups.counts()
    return np.array([len(group.completions) for group in groups], dtype=np.int64)


def numbers_of(groups: Sequence[TokenGroup], name: str) -> np.ndarray:
    """(S,) a number of each completion, in the groups' order."""
    if isinstance(groups, StoredGroups):
        return groups.numbers(name)
    if isinstance(groups, Overlaid) and name == groups.name:
        return groups.numbers
    return np.concatenate([group.completion[name] for group in groups] or [np.zeros(0)])


def value_names(groups: Sequence[TokenGroup]) -> tuple[set[str], bool]:
    """The names of the numbers that rows have, and whether any row's weight is not 1."""
    if isinstance(groups, StoredGroups):
        return set(groups.facts["values"]), bool(groups.facts["weighted"])
    names = {name for group in groups for name in group.value}
    return names, any(group.value.get("weight", 1.0) != 1.0 for group in groups)


class Overlaid(Sequence[TokenGroup]):
    """Groups with one more number for each completion, `numbers` (S,), under a name. None is kept in memory."""

    def __init__(self, groups: Sequence[TokenGroup], name: str, numbers: np.ndarray) -> None:
        self._groups, self.name, self.numbers = groups, name, numbers
        counts = counts_of(groups)
        first = int(counts[0]) if len(counts) else 0
        self._each = first if bool((counts == first).all()) else 0
        self._starts = None if self._each else np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> TokenGroup: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenGroup]: ...
    def __getitem__(self, index: int | slice) -> TokenGroup | list[TokenGroup]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        group, place = self._groups[index], range(len(self))[index]
        start = place * self._each if self._starts is None else int(self._starts[place])
        own = self.numbers[start : start + len(group.completions)]
        return replace(group, completion={**group.completion, self.name: own})


class Chosen(Sequence[TokenGroup]):
    """Some of the groups, by their places."""

    def __init__(self, groups: Sequence[TokenGroup], places: Sequence[int] | np.ndarray) -> None:
        self._groups, self._places = groups, places

    def __len__(self) -> int:
        return len(self._places)

    def counts(self) -> np.ndarray:
        """(len,) the number of completions of each group."""
        return counts_of(self._groups)[np.asarray(self._places)]

    @overload
    def __getitem__(self, index: int) -> TokenGroup: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenGroup]: ...
    def __getitem__(self, index: int | slice) -> TokenGroup | list[TokenGroup]:
        if isinstance(index, slice):
            return [self._groups[int(i)] for i in self._places[index]]
        return self._groups[int(self._places[index])]
