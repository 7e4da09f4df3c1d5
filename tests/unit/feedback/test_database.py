"""The store opens, migrates and refuses; a backup is the whole of it."""

from __future__ import annotations

import gzip
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from assent.errors import DataError, DataFileNotFoundError
from assent.feedback.store.backup import backup, restore
from assent.feedback.store.database import CHUNK, Database, open_database
from assent.feedback.store.labelling import last_answered, next_assignment, next_dispute
from assent.feedback.store.people import ensure_annotator
from assent.feedback.store.reading import counting, own_left, own_pace, totals
from assent.feedback.store.schema import metadata
from tests.support.feedback import fill, label_all, say


def test_the_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        found = {index["name"] for table in metadata.tables for index in sa.inspect(connection).get_indexes(table)}
    assert {index.name for table in metadata.tables.values() for index in table.indexes} <= found


def test_a_store_of_a_newer_version_is_refused(database: Database, address: str) -> None:
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DataError, match="newer version"):
        open_database(address)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "labels.txt"
    text.write_text("not a database " * 100)
    with pytest.raises(DataError, match="is no store of labels"):
        open_database(str(text))
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE films (title TEXT)")
    with pytest.raises(DataError, match="database of something else"):
        open_database(str(other))
    with pytest.raises(DataFileNotFoundError, match="there is no store"):
        open_database(str(tmp_path / "none.db"), create=False)
    with pytest.raises(DataFileNotFoundError, match="there is no folder"):
        open_database(str(tmp_path / "none" / "labels.db"))
    with pytest.raises(DataError, match="not supported"):
        open_database("mysql://host/name")
    with pytest.raises(DataError, match="cannot be opened"):
        open_database("postgresql://tester:hidden@127.0.0.1:9/none")


def test_sqlite_keeps_what_was_stored_on_the_disk_and_lets_others_read(tmp_path: Path) -> None:
    with open_database(str(tmp_path / "labels.db")) as database, database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_the_queries_for_the_next_item_use_the_indexes_of_what_is_open(tmp_path: Path) -> None:
    """Without them a million stored comparisons would be walked through."""
    with open_database(str(tmp_path / "labels.db")) as database:
        fill(database, 3)
        annotator = ensure_annotator(database, "mia").id
        statements: list[tuple[str, tuple[object, ...]]] = []

        @sa.event.listens_for(database.engine, "before_cursor_execute")
        def note(_: object, __: object, statement: str, parameters: tuple[object, ...], *___: object) -> None:
            statements.append((statement, parameters))

        given = next_assignment(database, annotator)
        assert given is not None
        say(database, given, [1, 2])
    plans = []
    with sqlite3.connect(tmp_path / "labels.db") as connection:
        for statement, parameters in statements:
            if statement.startswith("SELECT"):
                plans += [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    scans = [plan for plan in plans if plan.startswith("SCAN")]
    assert [plan for plan in scans if "ix_queue_open" not in plan and plan != "SCAN anon_1"] == []
    for index in ("ix_queue_open", "ix_assignments_open"):
        assert any(index in plan for plan in plans), plans


def test_no_limit_is_a_parameter(database: Database) -> None:
    """PostgreSQL keeps the plan of a statement and plans such a limit as a tenth of the rows: with a million stored
    comparisons a page that counts up to 100 items read all of an annotator's for each, in 0.5 s instead of 1 ms."""
    fill(database, 3)
    annotator = ensure_annotator(database, "mia").id
    statements: list[str] = []

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    given = next_assignment(database, annotator)
    assert given is not None
    say(database, given, [1, 2])
    next_dispute(database, annotator)
    with database.reading() as connection:
        assert own_left(connection, annotator) == 2
        assert own_pace(connection, annotator)[0] == 1
        assert last_answered(connection, annotator) is not None
    limits = [limit for statement in statements for limit in re.findall(r"LIMIT ([^\s)]+)", statement)]
    assert all(limit.isdigit() for limit in limits), limits
    assert {"1", "50", "100"} <= set(limits)


def test_a_backup_is_restored_whole_and_the_work_goes_on(
    database: Database, new_store: Callable[[], Database], tmp_path: Path
) -> None:
    fill(database, 6, reviews=2)
    one = ensure_annotator(database, "mia").id
    label_all(database, one)
    file = str(tmp_path / "backup.jsonl.gz")
    counts = backup(database, file)
    assert counts["judgements"] == counts["items"] == 6
    other = new_store()
    assert restore(other, file) == counts
    with database.reading() as first, other.reading() as second:
        for table in metadata.sorted_tables:
            query = sa.select(table).order_by(*table.primary_key)
            assert first.execute(query).all() == second.execute(query).all(), table.name
    two = ensure_annotator(other, "ben").id
    assert len(label_all(other, two)) == 6
    assert totals(other) == (12, 12)
    with pytest.raises(DataError, match="is not empty"):
        restore(other, file)


def test_a_backup_goes_from_sqlite_to_postgresql(
    database: Database, new_store: Callable[[], Database], tmp_path: Path
) -> None:
    source, file = new_store(), str(tmp_path / "backup.jsonl.gz")
    fill(source, 3)
    label_all(source, ensure_annotator(source, "mia").id)
    backup(source, file)
    restore(database, file)
    fill(database, 5)  # new rows get numbers of their own
    assert len(label_all(database, ensure_annotator(database, "ben").id)) == 2
    with database.reading() as connection:
        assert len(list(counting(connection))) == 5


def test_a_backup_of_more_rows_than_a_statement_holds_is_restored(
    database: Database, new_store: Callable[[], Database], tmp_path: Path
) -> None:
    """Completions refer to prompts, of which there are fewer than one statement takes."""
    source, file = new_store(), str(tmp_path / "backup.jsonl.gz")
    fill(source, CHUNK // 2 + 1)
    counts = backup(source, file)
    assert counts["prompts"] < CHUNK < counts["completions"]
    assert restore(database, file) == counts


def test_only_their_owner_reads_stores_and_backups(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_database(str(tmp_path / "labels.db")) as database:
            fill(database, 1)
            backup(database, str(tmp_path / "backup.jsonl.gz"))
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert {"labels.db", "labels.db-wal", "backup.jsonl.gz"} <= set(modes)
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize("damage", ["cut", "changed", "text", "line"])
def test_a_damaged_backup_is_refused_and_nothing_is_restored(
    damage: str, new_store: Callable[[], Database], tmp_path: Path
) -> None:
    source, target, file = new_store(), new_store(), tmp_path / "backup.jsonl.gz"
    fill(source, 3)
    backup(source, str(file))
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    elif damage == "text":
        file.write_text("nothing")
    else:
        changed = [line.replace(b"it is 1.", b"it is 9.") for line in lines] if damage == "changed" else lines[:-1]
        file.write_bytes(gzip.compress(b"".join(changed)))
    with pytest.raises(DataError, match=r"is no whole backup|cannot be restored"):
        restore(target, str(file))
    with target.reading() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM prompts")) == 0
