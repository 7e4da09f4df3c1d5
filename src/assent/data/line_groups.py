"""The groups of a large file of lines. A line is read when its group is asked for; in memory are 16 bytes a row."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from assent.data.readers import Hasher, NumberedRow, file_suffix, is_gzipped, parse_line, read_rows
from assent.data.texts import RowError
from assent.errors import DataError
from assent.types import PromptGroup

LARGE_BYTES = 64_000_000
"""Of a file, from which on its rows are read again whenever they are asked for."""

Parse = Callable[[Mapping[str, Any], str], PromptGroup]
"""The group of a row that was read before without an error, and its source."""


def is_large(files: Sequence[Path]) -> bool:
    """Whether this is one large file of lines, not packed: only there can a row be found again."""
    if len(files) != 1 or is_gzipped(files[0]) or file_suffix(files[0]) not in (".jsonl", ".ndjson"):
        return False
    return files[0].stat().st_size >= LARGE_BYTES


class _Places:
    """A hasher that knows where the line begins that was hashed last."""

    def __init__(self, hasher: Hasher) -> None:
        self._hasher, self.start, self._end = hasher, 0, 0

    def update(self, data: bytes, /) -> None:
        self._hasher.update(data)
        self.start, self._end = self._end, self._end + len(data)


class LineGroups(Sequence[PromptGroup]):
    """The groups of a file's lines.

    usable   yields the usable rows of numbered rows, with their groups (`_Collector.groups`)
    """

    def __init__(
        self,
        file: Path,
        hasher: Hasher,
        *,
        usable: Callable[[Iterator[NumberedRow]], Iterator[tuple[int, PromptGroup]]],
        parse: Parse,
    ) -> None:
        self.file, self._parse, self._lock = file, parse, Lock()
        places, starts, numbers = _Places(hasher), array("q"), array("q")
        for number, _ in usable(read_rows(file, places)):
            starts.append(places.start)
            numbers.append(number)
        self._starts, self._numbers = starts, numbers
        self._stream = file.open("rb")
        self._known = _identity(self._stream.fileno())

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, number = self._starts[index], self._numbers[index]
        with self._lock:
            self._stream.seek(start)
            line = self._stream.readline()
        row = parse_line(line.removeprefix(b"\xef\xbb\xbf") if start == 0 else line)
        if isinstance(row, RowError) or _identity(self._stream.fileno()) != self._known:
            raise DataError(f"{self.file}:{number} is not the row that was read before", fix="leave the file as it is")
        return self._parse(row, f"{self.file}:{number}")


def _identity(descriptor: int) -> tuple[int, int]:
    facts = os.fstat(descriptor)
    return facts.st_size, facts.st_mtime_ns
