"""Reads the rows of files: JSONL, JSON and CSV, each also gzipped (Parquet: tables.py).

A reader yields (number, row). The number is the line of the file, or the row if the format has no lines; both count
from 1. A reader yields a RowError for a line that cannot be read, and the loader decides whether to stop.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from assent.data import json_text, texts
from assent.data.texts import RowError
from assent.errors import DataError

NumberedRow = tuple[int, Mapping[str, Any] | RowError]

MAX_ROW_BYTES = 64_000_000
"""Of one line of JSONL, or one row of CSV. A longer one is a damaged file, or one made to fill the memory."""
MAX_UNPACKED_BYTES = 2_000_000_000
"""Of a file that is held in memory as a whole."""
MAX_RATIO, FREE_BYTES = 200, 8_000_000
"""How far a packed file may unpack, and below which size it does not matter."""
MAX_DEPTH = 100

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")


class Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...


def file_suffix(path: Path) -> str | None:
    """The suffix that decides how a file is read, without `.gz`; None for a file of an unknown format."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def is_gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def read_rows(path: Path, hasher: Hasher, notes: list[str] | None = None) -> Iterator[NumberedRow]:
    """The rows of a JSONL, JSON or CSV file; the hash is of the unpacked bytes. What was recognised joins `notes`."""
    csv_reader = partial(_read_csv, notes=notes if notes is not None else [])
    readers: dict[str, Callable[[Path, Hasher], Iterator[NumberedRow]]] = {".json": _read_json, ".csv": csv_reader}
    check_regular(path)
    try:
        yield from readers.get(file_suffix(path) or "", _read_jsonl)(path, hasher)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} cannot be unpacked: {error}", expected="a complete gzip file", fix="download or write it again"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def check_regular(path: Path) -> None:
    """Raises DataError for a pipe, socket or device, which may never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is a pipe or a device, not a file", fix="write its content to a file first")


def _lines(path: Path, hasher: Hasher) -> Iterator[tuple[int, bytes]]:
    """The numbered lines. Raises DataError for one that is longer than any row, and for a file that unpacks as no text
    does."""
    size, is_packed = 0, is_gzipped(path)
    most = most_unpacked(path)
    with gzip.open(path) if is_packed else path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES + 1), b""), start=1):
            if len(line) > MAX_ROW_BYTES:
                raise _too_long(path, number)
            size += len(line)
            if is_packed and size > most:
                raise unpacks_too_far(path, size)
            hasher.update(line)
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _too_long(path: Path, line: int) -> DataError:
    return DataError(
        f"{path}:{line}: the row is longer than {MAX_ROW_BYTES // 10**6} MB",
        expected="one row on each line",
        fix="check how the file was written",
    )


def _read_jsonl(path: Path, hasher: Hasher) -> Iterator[NumberedRow]:
    for number, line in _lines(path, hasher):
        if line.strip():
            yield number, parse_line(line)


def parse_line(line: bytes) -> Mapping[str, Any] | RowError:
    """The row of a line of JSONL, or what is wrong with it."""
    try:
        value = json_text.loads(line.decode())
    except RowError as error:
        return error
    except UnicodeDecodeError as error:
        return RowError("not UTF-8", f"not UTF-8: {error.reason} at byte {error.start}", fix=_to_utf8("FILE", error))
    except json.JSONDecodeError as error:
        return RowError(
            "broken JSON",
            f"broken JSON: {error.msg} at column {error.colno}",
            got=texts.shorten(line.decode().rstrip("\r\n")),
            expected="one JSON object on each line",
        )
    except RecursionError:
        return RowError("broken JSON", "the JSON is nested too deeply")
    except ValueError:  # Python refuses integers of more than 4300 digits
        return RowError("broken JSON", "the row has an integer of more than 4300 digits")
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and is_deep(value):
        return RowError("broken JSON", "the JSON is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
    return _require_object(value)


def is_deep(value: object) -> bool:
    """Whether lists and objects are nested beyond `MAX_DEPTH`."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for part in level
            if isinstance(part, (dict, list))
            for item in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return False
    return True


def _require_object(value: object) -> Mapping[str, Any] | RowError:
    if isinstance(value, Mapping):
        return value
    return RowError(
        "not an object",
        "the row is not a JSON object",
        got=f"{type(value).__name__} {texts.shorten(value)}",
        expected='an object of columns, such as {"prompt": …, "completion": …}',
    )


def _read_text(path: Path, hasher: Hasher) -> str:
    parts, size = [], 0
    with gzip.open(path) if is_gzipped(path) else path.open("rb") as file:
        while part := file.read(1 << 20):
            hasher.update(part)
            parts.append(part)
            size += len(part)
            check_unpacked(path, size)
    data = b"".join(parts).removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _not_utf8(path, line, error) from None


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{path}:{line}: not UTF-8: {error.reason}", fix=_to_utf8(str(path), error))


def _to_utf8(name: str, error: UnicodeDecodeError) -> str:
    """How to convert a file: from UTF-16 where it begins so, else from what Windows writes in western Europe."""
    theirs = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
    name = shlex.quote(name)
    return (
        f"convert the file to UTF-8: iconv -f {theirs} -t utf-8 {name} > NEW, if it is {theirs}; "
        'in Excel, save it as "CSV UTF-8"'
    )


def check_unpacked(path: Path, size: int) -> None:
    """Raises DataError for a file that is too large to be held as a whole, or unpacks as no text does."""
    if is_gzipped(path) and size > most_unpacked(path):
        raise unpacks_too_far(path, size)
    if size > MAX_UNPACKED_BYTES:
        raise DataError(
            f"{path} is too large to be read as a whole",
            got=f"more than {size // 10**6} MB unpacked, from {path.stat().st_size} bytes",
            expected=f"at most {MAX_UNPACKED_BYTES // 10**6} MB",
            fix="write it as JSONL, one object on each line",
        )


def most_unpacked(path: Path) -> int:
    return max(FREE_BYTES, MAX_RATIO * path.stat().st_size)


def unpacks_too_far(path: Path, size: int) -> DataError:
    return DataError(
        f"{path} unpacks to far more than text does",
        got=f"more than {size // 10**6} MB, from {path.stat().st_size} bytes",
        expected=f"at most {MAX_RATIO} times the packed size",
        fix="unpack it and check how it was written",
    )


def _is_array(path: Path) -> bool:
    with gzip.open(path) if is_gzipped(path) else path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _read_json(path: Path, hasher: Hasher) -> Iterator[NumberedRow]:
    """Reads an array of objects. A file named `.json` that has one object on each line is read as JSONL."""
    if not _is_array(path):
        yield from _read_objects(path, hasher)
        return
    text = _read_text(path, hasher)
    try:
        rows = json_text.load_rows(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: broken JSON: {error.msg} at column {error.colno}",
            expected="one array of objects",
        ) from None
    except RecursionError:
        raise DataError(f"{path}: the JSON is nested too deeply", expected="one array of objects") from None
    except ValueError:  # Python refuses integers of more than 4300 digits
        raise DataError(f"{path}: an integer of more than 4300 digits", expected="one array of objects") from None
    for number, row in enumerate(rows, start=1):
        if isinstance(row, RowError):
            yield number, row
        elif is_deep(row):
            yield (
                number,
                RowError("broken JSON", "the JSON is nested too deeply", expected=f"at most {MAX_DEPTH} levels"),
            )
        else:
            yield number, _require_object(row)


def _read_objects(path: Path, hasher: Hasher) -> Iterator[NumberedRow]:
    """JSONL in a file named `.json`. Raises DataError where the file is one object around its rows."""
    rows = _read_jsonl(path, hasher)
    first, second = next(rows, None), next(rows, None)
    if first is None:
        return
    whole: object = first[1]
    if isinstance(whole, RowError) and second is not None:  # an object over several lines?
        try:
            whole = json_text.loads(_read_text(path, hashlib.sha256()))  # the rows' own reading counts for the hash
        except (ValueError, RecursionError, RowError):
            whole = None
    if isinstance(whole, Mapping) and (second is None or whole is not first[1]):
        for name, value in whole.items():
            rows_of_it = isinstance(value, list) and len(value) > 1 and all(isinstance(item, Mapping) for item in value)
            are_turns = not rows_of_it or any("role" in item or "from" in item for item in value)
            if name in STRUCTURED_COLUMNS | TEXT_COLUMNS and (name not in ("messages", "conversations") or are_turns):
                break
            if rows_of_it:
                raise DataError(
                    f"{path} is one object, whose `{name}` holds {len(value)} objects",
                    got="keys " + texts.listed(sorted(whole)),
                    expected="an array of objects, or one object on each line",
                    fix=f"write that list alone: jq .{name} {shlex.quote(str(path))} > rows.json",
                )
    yield first
    if second is not None:
        yield second
    yield from rows


STRUCTURED_COLUMNS = {
    "messages", "conversations", "rejected_messages", "completions", "ranking", "scores", "labels", "logps", "tools",
    "chat_template_kwargs",
}  # fmt: skip
NUMBER_COLUMNS = {"margin", "weight", "chosen_probability", "chosen_logps", "rejected_logps", "score", "logp"}
TEXT_COLUMNS = {"prompt", "completion", "chosen", "rejected"}


SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
"""Of cells. Spreadsheets write semicolons where the comma is the decimal sign, as in German."""


def _separator(header: str) -> str:
    """The separator that the header has most often outside of quotes; of equals the comma."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=bare.count)


def _read_csv(path: Path, hasher: Hasher, *, notes: list[str]) -> Iterator[NumberedRow]:
    """Reads CSV. A cell holds a list (of messages too) as JSON; an empty cell is a missing value."""
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than one long conversation
    row_bytes = 0

    def lines() -> Iterator[str]:
        nonlocal row_bytes
        for number, line in _lines(path, hasher):
            row_bytes += len(line)
            if row_bytes > MAX_ROW_BYTES:
                raise _too_long(path, number)
            try:
                yield from io.StringIO(line.decode(), newline="")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, error) from None

    texts_of_lines = lines()
    first = next(texts_of_lines, None)
    if first is None:
        return
    separator = _separator(first)
    if separator != ",":
        notes.append(f"cells separated by {SEPARATORS[separator]}s, as in the header")
    reader = csv.reader(chain([first], texts_of_lines), delimiter=separator)
    header = next(reader)
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise DataError(f"{path}:1: the column {twice[0]!r} appears twice", got=texts.shorten(header))
    end = reader.line_num
    try:
        for cells in reader:
            row_bytes = 0
            start, end = end + 1, reader.line_num
            if cells:
                yield start, _parse_cells(header, cells, SEPARATORS[separator])
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: broken CSV: {error}") from None


def _parse_cells(header: list[str], cells: list[str], separator: str) -> Mapping[str, Any] | RowError:
    if len(cells) != len(header):
        return RowError(
            "wrong number of cells",
            f"{len(cells)} cells under {len(header)} columns",
            got=texts.shorten(cells),
            expected=", ".join(header),
            fix=f"quote cells that hold {separator}s or line breaks",
        )
    try:
        return {name: _parse_cell(name, cell) for name, cell in zip(header, cells, strict=True)}
    except RowError as error:
        return error


def _parse_cell(column: str, cell: str) -> object:
    if not cell:
        return None
    if column in STRUCTURED_COLUMNS:
        try:
            value = json_text.loads(cell)
        except json.JSONDecodeError as error:
            raise RowError(
                f"bad `{column}`", f"the cell `{column}` is not JSON: {error.msg}", got=texts.shorten(cell)
            ) from None
        except (RecursionError, ValueError):  # Python refuses integers of more than 4300 digits
            value = None
        if (value is None and cell.strip() != "null") or is_deep(value):
            raise RowError(
                f"bad `{column}`", f"the cell `{column}` is nested too deeply or has an endless number",
                got=texts.shorten(cell),
            )  # fmt: skip
        return value
    if column in TEXT_COLUMNS:
        return messages_in(cell)
    if column in NUMBER_COLUMNS:
        try:
            return float(cell)
        except ValueError:
            return cell  # the layout's parser refuses it and says what it expected
    if column in ("label", "kto_tag"):
        return {"true": True, "false": False, "1": True, "0": False}.get(cell.strip().lower(), cell)
    return cell


def messages_in(cell: str) -> object:
    """A cell that holds messages as JSON is a conversation; any other cell is raw text."""
    if not cell.startswith(("[", "{")):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    items = value if isinstance(value, list) else [value]
    is_conversation = items and all(isinstance(m, dict) and ("role" in m or "from" in m) for m in items)
    return json_text.loads(cell) if is_conversation and not is_deep(items) else cell
