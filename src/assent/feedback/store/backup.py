"""The whole store in one file, and back: from SQLite or PostgreSQL to either.

A gzipped JSONL: a head, the rows of each table, a tail with their number and hash. It is read in one snapshot, so it is
whole also while the app runs.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from assent.errors import DataError, DataFileNotFoundError
from assent.feedback.store.database import CHUNK, OWN, Database, revision_of
from assent.feedback.store.schema import metadata
from assent.runs.files import replacing

FORMAT = "assent labels 1"


def backup(database: Database, file: str) -> dict[str, int]:
    """Writes every table and returns the number of rows of each."""
    target, counts, digest = Path(file), Counter[str](), hashlib.sha256()
    if not target.parent.is_dir():
        raise DataFileNotFoundError(f"there is no folder {target.parent}", fix="create it first")
    with (
        database.reading() as connection,
        replacing(target, mode=OWN) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as out,
    ):

        def write(value: Any) -> None:
            line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            out.write(line)

        write({"format": FORMAT, "revision": revision_of(connection)})
        for table in metadata.sorted_tables:
            keys = list(table.primary_key)
            rows = connection.execute(sa.select(table).order_by(*keys).execution_options(yield_per=1000))
            for row in rows:
                write([table.name, list(row)])
                counts[table.name] += 1
        write({"rows": sum(counts.values()), "sha256": digest.hexdigest()})
    return dict(counts)


def restore(database: Database, file: str) -> dict[str, int]:
    """Fills an empty store. Raises DataError where it is not empty, and where the backup is damaged or cut off."""
    counts = Counter[str]()
    with database.writing() as connection:
        if any(connection.scalar(sa.select(sa.func.count()).select_from(t)) for t in metadata.sorted_tables):
            raise DataError(f"the store {database.name} is not empty", fix="restore into a new one")
        tables = {table.name: table for table in metadata.sorted_tables}
        waiting: list[dict[str, Any]] = []
        begun = ""
        for table, row in _rows(file, revision_of(connection)):
            if table not in tables:
                raise _damaged(file, f"a row of an unknown table {table!r}")
            names = tables[table].columns.keys()
            if len(names) != len(row):
                raise _damaged(file, f"a row of {table} with {len(row)} columns")
            if waiting and (table != begun or len(waiting) == CHUNK):  # rows refer to those of the tables before
                connection.execute(sa.insert(tables[begun]), waiting)
                waiting = []
            begun = table
            waiting.append(dict(zip(names, row, strict=True)))
            counts[table] += 1
        if waiting:
            connection.execute(sa.insert(tables[begun]), waiting)
        if not database.is_sqlite:
            _set_sequences(connection)
    return dict(counts)


def _rows(file: str, revision: str) -> Any:
    """The rows, one after the other; raises DataError for a file that is not whole, at the latest at its end."""
    digest, count, is_whole = hashlib.sha256(), 0, False
    try:
        with gzip.open(file, "rb") as lines:
            head = json.loads(first := lines.readline())
            if head.get("format") != FORMAT or head.get("revision") != revision:
                raise DataError(
                    f"{file} cannot be restored by this version", got=f"{head.get('format')}, {head.get('revision')}",
                    expected=f"{FORMAT}, {revision}", fix="restore it with the version that wrote it",
                )  # fmt: skip
            digest.update(first)
            for line in lines:
                value = json.loads(line)
                if isinstance(value, dict):
                    is_whole = value == {"rows": count, "sha256": digest.hexdigest()}
                    break
                digest.update(line)
                count += 1
                yield value
    except FileNotFoundError:
        raise DataFileNotFoundError(f"there is no backup {file}") from None
    except (OSError, EOFError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(file, str(error)) from None
    if not is_whole:
        raise _damaged(file, "its end is missing, or its rows are not those that were written")


def _damaged(file: str, why: str) -> DataError:
    return DataError(f"{file} is no whole backup of labels", got=why, fix="take another backup; nothing was restored")


def _set_sequences(connection: Connection) -> None:
    """PostgreSQL numbers new rows on from the last that it numbered itself."""
    for table in metadata.sorted_tables:
        key = table.primary_key.columns.values()[0]
        if key.name == "id":
            connection.execute(
                sa.text(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), "
                    f"(SELECT coalesce(max(id), 0) + 1 FROM {table.name}), false)"
                )
            )
