"""`load_groups` and its inverse: from a file, a folder or a hub name to `PromptGroup`s, and back.

A row that cannot be used raises an error with its line. The one exception is a pair of identical completions: it is
refused, counted and listed, as long as other rows remain. `lenient` treats all bad rows this way, for `data check`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from assent.data import texts
from assent.data.columns import Renaming
from assent.data.foreign import as_ours
from assent.data.formats import MISSING_COLUMN, Layout, detect_layout, get_layout, missing_columns, parse_row, write_row
from assent.data.given import groups_hash, rows_hash
from assent.data.judged_pairs import UNJUDGED
from assent.data.line_groups import LineGroups, is_large
from assent.data.readers import Hasher, NumberedRow, file_suffix, is_gzipped, read_rows
from assent.data.sources import open_source
from assent.data.tables import open_parquet, plain_row, undecoded
from assent.data.texts import RowError
from assent.errors import DataError, DataFileNotFoundError, StorageError, UsageError
from assent.runs.files import replacing
from assent.types import PromptGroup

if TYPE_CHECKING:
    import datasets


VALUES_SHOWN = 8
"""Different values of one fault that the error for a file without usable rows lists; of more it shows the first."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that was left out: its source, and why. Rows with the same fault have the same `reason`."""

    source: str
    reason: str
    detail: str = ""


class Dataset(Sequence[PromptGroup]):
    """The groups of one file, folder or hub dataset, in its order.

    `sha256` is the hash of the content: of the unpacked bytes of the files, or of the rows if there is no file.
    """

    def __init__(
        self,
        groups: Sequence[PromptGroup],
        *,
        layout: str,
        path: str = "",
        sha256: str = "",
        refused: Sequence[RefusedRow] = (),
        notes: Sequence[str] = (),
        renaming: Renaming | None = None,
    ) -> None:
        self._groups = groups
        self.layout, self.path, self.sha256, self.refused = layout, path, sha256, list(refused)
        self.notes = list(notes)
        """What to say once of how it was read: the split that was chosen, columns and layouts that were recognised."""
        self.renaming = renaming or Renaming({})

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> PromptGroup: ...
    @overload
    def __getitem__(self, index: slice) -> list[PromptGroup]: ...
    def __getitem__(self, index: int | slice) -> PromptGroup | list[PromptGroup]:
        if isinstance(index, slice):
            return [self._groups[i] for i in range(*index.indices(len(self)))]
        return self._groups[index]

    def __iter__(self) -> Iterator[PromptGroup]:
        return iter(self._groups)

    def __repr__(self) -> str:
        return f"Dataset({self.path!r}, layout={self.layout!r}, {len(self)} groups, {len(self.refused)} refused)"

    def refused_by_reason(self) -> dict[str, list[str]]:
        """{reason: [source, …]}, the most frequent reason first."""
        counts = Counter(row.reason for row in self.refused)
        return {reason: [r.source for r in self.refused if r.reason == reason] for reason, _ in counts.most_common()}

    def lines(self) -> list[str]:
        """What to tell of how it was read: the notes, and the rows that were refused, with the reasons."""
        refused = self.refused_by_reason().items()
        return [
            *self.notes,
            *(f"refused at loading, {len(rows)}: {why} ({texts.some(rows)})" for why, rows in refused),
        ]

    def refused_row(self, number: int) -> RefusedRow | None:
        """The refused row of this number; None if there is none, or if a usable row has the number too."""
        wanted = (f":{number}", f":row {number}")
        if any(group.source.endswith(wanted) for group in self):
            return None
        return next((row for row in self.refused if row.source.endswith(wanted)), None)

    def row(self, number: int) -> PromptGroup:
        """The group of one row: its line in a JSONL or CSV file, otherwise its place, counted from 1.

        Raises DataError if there is no such row, if it is refused, or if several files have one.
        """
        wanted = (f":{number}", f":row {number}")
        found = [group for group in self if group.source.endswith(wanted)]
        if len(found) != 1:
            refused = [row.reason for row in self.refused if row.source.endswith(wanted)]
            raise DataError(
                f"{self.path} has {len(found) or 'no'} usable row{'s' if found else ''} {number}",
                got=", ".join([*refused, *(group.source for group in found)]) or f"{len(self)} rows",
                expected="the number of one row: its line in a JSONL or CSV file, otherwise its place counted from 1",
            )
        return found[0]


class _ArrowGroups(Sequence[PromptGroup]):
    """The groups of a memory-mapped Arrow table. A row is parsed when its group is read."""

    def __init__(self, table: datasets.Dataset, rows: array[int], *, collector: _Collector, name: str) -> None:
        self._table, self._rows, self._collector, self._name = table, rows, collector, name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[index]
        return self._collector.again(plain_row(self._table[row]), f"{self._name}{row + 1}")


class _Collector:
    """Reads numbered rows, finds the layout from the first one and requires it of the others."""

    def __init__(
        self, *, layout: str | None, lenient: bool, renaming: Renaming | None = None, is_to_be_judged: bool = False
    ) -> None:
        self.layout: Layout | None = None if layout is None else get_layout(layout)
        self.lenient, self.renaming, self.is_to_be_judged = lenient, renaming or Renaming({}), is_to_be_judged
        self.recognised: Counter[str] = Counter()
        self.refused: list[RefusedRow] = []
        self.notes: list[str] = []
        self.first_errors: dict[str, DataError] = {}
        self.values: dict[str, Counter[str]] = {}
        """By reason, as `first_errors` are: what was refused, as many values as are worth showing."""
        self._is_given = layout is not None
        self._first = ""
        self._known_columns: set[frozenset[str]] = set()

    def groups(self, rows: Iterable[NumberedRow], name: str) -> Iterator[tuple[int, PromptGroup]]:
        """The usable rows. `name` and the number make the source: `file.jsonl:` and 12."""
        for number, row in rows:
            source = f"{name}{number}"
            try:
                if isinstance(row, RowError):
                    raise row
                required = self.layout.required if self.layout and self._is_given else ()
                row, recognised = as_ours(self.renaming(row), required)
                layout = self._layout_of(row, source)
                group = parse_row(row, layout, source=source)
            except RowError as error:
                if not (self.lenient and error.reason != MISSING_COLUMN) and (
                    misnamed := self.renaming.missing(source)
                ):
                    raise misnamed from None  # a misspelt name is why the row cannot be read
                self._refuse(error, source)
                continue
            self.recognised.update(recognised)
            yield number, group

    def again(self, row: Mapping[str, Any], source: str) -> PromptGroup:
        """The group of a row that was found usable before."""
        assert self.layout is not None
        ours, _ = as_ours(self.renaming(row), self.layout.required)
        return parse_row(ours, self.layout, source=source)

    def _layout_of(self, row: Mapping[str, Any], source: str) -> Layout:
        columns = frozenset(row)
        if columns in self._known_columns:
            assert self.layout is not None
        elif self._is_given:
            assert self.layout is not None
            if not columns.issuperset(self.layout.required):
                raise missing_columns(columns, self.layout)
        elif self.layout is None:
            self.layout, self._first = self._detect(row), source
        else:
            self._hold_to_layout(row)
        self._known_columns.add(columns)
        return self.layout

    def _detect(self, row: Mapping[str, Any]) -> Layout:
        try:
            return detect_layout(row.keys(), is_to_be_judged=self.is_to_be_judged)
        except RowError as ambiguous:  # columns that are null in this row may belong to another layout
            names = [name for name, value in row.items() if value is not None]
            try:
                return detect_layout(names, is_to_be_judged=self.is_to_be_judged)
            except RowError:
                raise ambiguous from None

    def _hold_to_layout(self, row: Mapping[str, Any]) -> None:
        assert self.layout is not None
        found = self._detect(row)
        if found != self.layout:
            raise RowError(
                "another layout",
                f"this row's layout differs from the first row's ({self._first})",
                got=f"{found.name} (columns {', '.join(row)})",
                expected=str(self.layout),
                fix="write one file for each layout",
            )

    def _refuse(self, error: RowError, source: str) -> None:
        error = self.renaming.in_their_names(error)
        message = DataError(f"{source}: {error.what}", got=error.got, expected=error.expected, fix=error.fix)
        if not self.lenient and error.reason not in (texts.IDENTICAL, UNJUDGED):
            raise message from None
        self.first_errors.setdefault(error.reason, message)
        values = self.values.setdefault(error.reason, Counter())
        if error.got is not None and (len(values) <= VALUES_SHOWN or str(error.got) in values):
            values[str(error.got)] += 1
        self.refused.append(RefusedRow(source, error.reason, error.what))


def load_groups(
    path_or_name: str | os.PathLike[str],
    *,
    layout: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    lenient: bool = False,
    columns: Mapping[str, str] | None = None,
    own_columns: bool = True,
    is_to_be_judged: bool = False,
) -> Dataset:
    """Loads a file, a folder or a hub dataset.

    layout      one of `formats.LAYOUTS`; None: found from the columns
    split       the split of a folder or hub dataset; None: "train", or the only split
    revision    the revision of a hub dataset
    lenient     bad rows are listed in `Dataset.refused` and raise no error
    columns     names of the file's columns, each with the name that it has here
    own_columns False: the file need not have all of them; `Dataset.renaming.used` says which it has
    is_to_be_judged   rows of several completions need no ranking and no scores (`formats.CANDIDATES`)

    Raises DataFileNotFoundError, DataError (with file and line) and UsageError.
    """
    renaming = Renaming(columns or {}, own=own_columns)
    collector = _Collector(layout=layout, lenient=lenient, renaming=renaming, is_to_be_judged=is_to_be_judged)
    source = open_source(os.fspath(path_or_name), split=split, revision=revision)
    hasher = hashlib.sha256()
    groups: Sequence[PromptGroup]
    if source.rows is not None:
        return _in_memory(source.rows, collector, path=source.name)
    if source.table is not None:
        groups = _table_groups(source.table, collector, f"{source.name}:row ", hasher)
    elif all(file_suffix(file) == ".parquet" for file in source.files):
        groups = _table_groups(open_parquet(source.files, hasher), collector, f"{source.name}:row ")
    elif is_large(source.files):
        [file] = source.files
        groups = LineGroups(file, hasher, usable=lambda rows: collector.groups(rows, f"{file}:"), parse=collector.again)
    else:
        groups = [group for file in source.files for group in _file_groups(file, collector, hasher)]
    return _finish(groups, collector, path=source.name, sha256=hasher.hexdigest(), notes=source.notes)


def _file_groups(file: Path, collector: _Collector, hasher: Hasher) -> Iterator[PromptGroup]:
    if file_suffix(file) == ".parquet":
        yield from _table_groups(open_parquet([file], hasher), collector, f"{file}:row ")
    else:
        name = f"{file}:row " if file_suffix(file) == ".json" else f"{file}:"
        for _, group in collector.groups(read_rows(file, hasher, collector.notes), name):
            yield group


def _table_groups(
    table: datasets.Dataset, collector: _Collector, name: str, hasher: Hasher | None = None
) -> _ArrowGroups:
    """Reads every row once to check it, and hashes it if `hasher` is given. Keeps the numbers of the usable rows."""
    table = undecoded(table)

    def rows() -> Iterator[NumberedRow]:
        for number, row in enumerate(table, start=1):
            plain = plain_row(row)
            if hasher is not None:
                hasher.update(json.dumps(plain, sort_keys=True, default=str).encode() + b"\n")
            yield number, plain

    kept = array("q", (number - 1 for number, _ in collector.groups(rows(), name)))
    return _ArrowGroups(table, kept, collector=collector, name=name)


def _finish(
    groups: Sequence[PromptGroup], collector: _Collector, *, path: str, sha256: str, notes: Sequence[str] = ()
) -> Dataset:
    if misnamed := collector.renaming.missing(path):
        raise misnamed
    if groups:
        assert collector.layout is not None
        said = [f"{what} ({texts.counted(count, 'row')})" for what, count in collector.recognised.items()]
        return Dataset(
            groups,
            layout=collector.layout.name,
            path=path,
            sha256=sha256,
            refused=collector.refused,
            notes=[*notes, *collector.notes, *collector.renaming.note(), *said],
            renaming=collector.renaming,
        )
    if not collector.refused:
        raise DataError(f"{path} has no rows", fix="check how the file was written")
    reasons = Counter(row.reason for row in collector.refused)
    commonest = reasons.most_common(1)[0][0]
    first, values = collector.first_errors[commonest], collector.values[commonest]
    got = first.got
    if set(reasons) == {texts.IDENTICAL}:
        what = f"{path}: `chosen` and `rejected` are identical in every row ({len(collector.refused)} rows)"
        fix: str | None = "check how the columns were made: one was probably copied from the other"
    else:
        faults = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        what, fix = f"{path}: no row can be used: {faults}. The first: {first.what}", first.fix
        if 1 < len(values) <= VALUES_SHOWN:
            got = ", ".join(f"{value} ({texts.counted(count, 'row')})" for value, count in values.most_common())
    raise DataError(what, got=got, expected=first.expected, fix=fix)


def groups_of_rows(rows: Iterable[Mapping[str, Any]]) -> Dataset:
    """The groups of rows in memory, which have the columns that a file would have. Raises what `load_groups` raises."""
    return _in_memory(list(rows), _Collector(layout=None, lenient=False), path="rows given")


def _in_memory(rows: Sequence[Any], collector: _Collector, *, path: str) -> Dataset:
    """Rows, or groups that are taken as they are."""
    if rows and isinstance(rows[0], PromptGroup):
        if collector.renaming.columns or collector.layout is not None:
            raise UsageError("columns and layout have no effect on PromptGroups, which have no columns", got=path)
        refused = getattr(rows, "refused", ())
        return Dataset(rows, layout="groups", path=path, sha256=groups_hash(rows), refused=refused)
    groups = [group for _, group in collector.groups(enumerate(rows, start=1), "row ")]
    return _finish(groups, collector, path=path, sha256=rows_hash(rows))


def write_groups(path: str | os.PathLike[str], groups: Iterable[PromptGroup], layout: str) -> None:
    """Writes JSONL (gzipped if the suffix is `.gz`) from which `load_groups` reads the same groups.

    Every row is parsed again before it is written: if the layout cannot hold a group, DataError is raised and nothing
    is written. The file appears complete or not at all.
    """
    target = Path(path)
    if file_suffix(target) not in (".jsonl", ".ndjson"):
        raise UsageError(f"cannot write {target}", got=target.suffix or "no suffix", expected=".jsonl or .jsonl.gz")
    chosen = get_layout(layout)
    try:
        with replacing(target) as temporary, temporary.open("wb") as raw:
            # No file name and no time in the header, so that the same groups give the same bytes.
            file = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if is_gzipped(target) else raw
            for group in groups:
                file.write(json.dumps(write_row(group, chosen), ensure_ascii=False).encode() + b"\n")
            if file is not raw:
                file.close()
    except FileNotFoundError:
        raise DataFileNotFoundError(f"there is no folder {target.parent}", fix="create it first") from None
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror or error}") from error
