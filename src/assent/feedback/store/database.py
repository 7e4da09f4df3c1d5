"""Opening the database: SQLite in one file (WAL), or PostgreSQL by URL; and its transactions."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from assent.errors import DataError, DataFileNotFoundError
from assent.feedback.store.schema import assignments

MIGRATIONS = Path(__file__).parent / "migrations"
PATIENCE_SECONDS = 30
"""How long SQLite waits for another process that writes."""
CHUNK = 500
"""Rows that one statement names or inserts. SQLite takes at most 32,766 parameters."""
OWN = 0o600
"""Stores and backups hold names, passwords' hashes and the key of the sessions: only their owner reads them."""
_MIGRATION_LOCK = 7_246_031
"""Any number: processes that open one PostgreSQL store at the same time migrate it one after the other."""


class Database:
    """An open store. `url` has no password in it when shown."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock
        self.is_sqlite = engine.dialect.name == "sqlite"
        # SQLite has one writer. Threads that wait for a lock wake at once; those that poll the file sleep too long.
        self._writer = threading.Lock() if self.is_sqlite else contextlib.nullcontext()
        self._last_times: dict[str, float] = {}

    @property
    def name(self) -> str:
        if self.is_sqlite:
            return str(self.engine.url.database)
        return self.engine.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One snapshot: what others write meanwhile is not seen."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, whole or not at all."""
        with self._writer, self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def is_time(self, task: str, seconds: float) -> bool:
        """Whether this process has not been told so of a task for so many seconds."""
        now = self.clock()
        if abs(now - self._last_times.get(task, -math.inf)) < seconds:
            return False
        self._last_times[task] = now
        return True

    def insert_new(self, connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> int:
        """Inserts rows; those whose key is there already are left as they are. Returns how many were new."""
        insert: Any = sqlite.insert if self.is_sqlite else postgresql.insert
        before = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        for start in range(0, len(rows), CHUNK):
            connection.execute(insert(table).on_conflict_do_nothing(), rows[start : start + CHUNK])
        return (connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0) - before

    def close(self) -> None:
        self.engine.dispose()

    def discard(self) -> None:
        """Closes a file of SQLite and removes it, unless somebody was given an item already."""
        assert self.is_sqlite
        with self.reading() as connection:
            if connection.scalar(sa.select(assignments.c.id).limit(1)) is not None:
                return
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(self.name + suffix).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_database(store: str, *, create: bool = True, clock: Callable[[], float] = time.time) -> Database:
    """Opens a store and brings its tables up to date.

    store    a file of SQLite, or postgresql://user@host/name
    create   False: a file that does not exist is an error

    Raises DataFileNotFoundError, and DataError for what is no store, is a newer version's, or cannot be reached.
    """
    url = _url(store)
    if url.drivername == "sqlite":
        file = Path(str(url.database))
        if not file.exists() and not create:
            raise DataFileNotFoundError(
                f"there is no store {file}", fix="name the store with --store, or fill one: --completions FILE"
            )
        if not file.parent.is_dir():
            raise DataFileNotFoundError(f"there is no folder {file.parent} for the store {file.name}")
        if not file.exists():
            _create(file)
    engine = _sqlite(url) if url.drivername == "sqlite" else _postgresql(url)
    database = Database(engine, clock=clock)
    try:
        _migrate(database)
    except OperationalError as error:
        database.close()
        raise DataError(f"the store {database.name} cannot be opened", got=_first_line(error)) from None
    except DatabaseError as error:
        database.close()
        raise DataError(
            f"{database.name} is no store of labels", got=_first_line(error), expected="a file that assent label made"
        ) from None
    except DataError:
        database.close()
        raise
    return database


def _create(file: Path) -> None:
    """An empty file, which SQLite takes for a new database. The files that it puts beside it get its mode."""
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, OWN))
    except OSError as error:
        raise DataError(f"the store {file} cannot be opened", got=error.strerror) from None


def _first_line(error: DatabaseError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _url(store: str) -> URL:
    if "://" not in store:
        return URL.create("sqlite", database=store)
    expected = "a file, or postgresql://user@host:port/name"
    try:
        url = make_url(store)
    except ArgumentError:
        raise DataError("the store's address cannot be read", expected=expected) from None
    if url.get_backend_name() != "postgresql":
        raise DataError("this kind of database is not supported", got=url.get_backend_name(), expected=expected)
    return url.set(drivername="postgresql+psycopg")


def _sqlite(url: URL) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": PATIENCE_SECONDS, "check_same_thread": False}, pool_size=20)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, and not where the driver guesses
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a reader that becomes a writer fails when another has written meanwhile, so writers say so at once
        kind = "IMMEDIATE" if connection.get_execution_options().get("writes") else "DEFERRED"
        connection.exec_driver_sql(f"BEGIN {kind}")

    return engine


def _postgresql(url: URL) -> Engine:
    try:
        return sa.create_engine(url, pool_size=20, pool_pre_ping=True)
    except ModuleNotFoundError:
        raise DataError(
            "a PostgreSQL store needs the package psycopg", fix="pip install 'assent[postgresql]'"
        ) from None


def _migrate(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    newest = ScriptDirectory(str(MIGRATIONS))
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        now = MigrationContext.configure(connection).get_current_revision()
        if now == newest.get_current_head():
            return
        known = {script.revision for script in newest.walk_revisions()}
        if now is not None and now not in known:
            raise DataError(
                f"the store {database.name} was written by a newer version of assent",
                got=f"revision {now}",
                expected=f"at most {newest.get_current_head()}",
                fix="upgrade assent",
            )
        if now is None and sa.inspect(connection).get_table_names():
            raise DataError(
                f"{database.name} is a database of something else", expected="a store of labels, or an empty database"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def revision_of(connection: Connection) -> str:
    return str(MigrationContext.configure(connection).get_current_revision())
