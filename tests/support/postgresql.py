"""A PostgreSQL server of the system's own package, started on loopback as a user without privileges."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_POSTGRES = shutil.which("postgres") or next(
    (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)), None
)
PROGRAMS = Path(_POSTGRES).resolve().parent if _POSTGRES else None
ABSENT = "PostgreSQL is not installed (Debian's package: postgresql)"


def _user() -> dict[str, Any]:
    """The server refuses to run as root: then it runs as nobody."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextmanager
def server(*, durable: bool = False) -> Iterator[str]:
    """The address of a server without databases of its own: postgresql://tester@127.0.0.1:PORT.

    durable   each transaction is on the disk when it ends, as in real life; tests do without
    """
    assert PROGRAMS is not None
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    who = _user()
    if who:
        os.chown(folder, who["user"], who["group"])
    data, quiet = folder / "data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    common: dict[str, Any] = {**who, "cwd": folder, "env": {**os.environ, "LC_ALL": "C", "HOME": str(folder)}, **quiet}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        made = [PROGRAMS / "initdb", "-D", data, "-U", "tester", "--auth=trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(made, check=True, **common)
        fsync = "on" if durable else "off"
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync={fsync}"
        subprocess.run([PROGRAMS / "pg_ctl", "-D", data, "-w", "-o", options, "start"], check=True, **common)
        try:
            yield f"postgresql://tester@127.0.0.1:{port}"
        finally:
            subprocess.run([PROGRAMS / "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=False, **common)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(address: str, name: str) -> str:
    """Makes an empty database and returns its address."""
    import psycopg

    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{address}/{name}"
