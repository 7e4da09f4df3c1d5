"""Annotators: who may label, by invitation; passwords; and erasure, which removes who and keeps what."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from assent.errors import DataError
from assent.feedback.store.database import Database
from assent.feedback.store.items import get_setting, put_setting
from assent.feedback.store.schema import annotators, identities, invitations, tombstones

ROLES = ("annotator", "admin")
INVITATION_SECONDS = 7 * 24 * 3600
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 200
_NAME = re.compile(r"[\w][\w .@+-]{0,99}")


@dataclass(frozen=True, slots=True)
class Annotator:
    id: int
    name: str
    role: str

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


@lru_cache(maxsize=1)
def _hasher() -> Any:
    from pwdlib import PasswordHash

    return PasswordHash.recommended()


@lru_cache(maxsize=1)
def _nobody() -> str:
    """A hash of no password: names that do not exist take as long to refuse as others."""
    return str(_hasher().hash(secrets.token_hex(16)))


def check_name(name: str) -> str:
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise DataError(
            "this cannot be an annotator's name", got=name[:40], expected="1 to 100 letters, digits, spaces or . @ + -"
        )
    return name


def ensure_annotator(database: Database, name: str, *, role: str = "annotator") -> Annotator:
    """The annotator of this name, made if there is none, and an administrator from now on if asked for.

    Without a password nobody can sign in with the name.
    """
    name = check_name(name)
    with database.writing() as connection:
        return ensure_within(database, connection, name, role=role)


def ensure_within(database: Database, connection: Connection, name: str, *, role: str = "annotator") -> Annotator:
    row = connection.execute(sa.select(identities).where(identities.c.name == name)).one_or_none()
    if row is not None:
        return Annotator(row.annotator_id, row.name, _raise(connection, row, role))
    return Annotator(_new(database, connection, name, role, None), name, role)


def _raise(connection: Connection, known: Any, role: str) -> str:
    """The role that an annotator has then: an administrator stays one."""
    if role == known.role or role != "admin":
        return str(known.role)
    connection.execute(sa.update(identities).where(identities.c.annotator_id == known.annotator_id).values(role=role))
    return role


def _new(database: Database, connection: Connection, name: str, role: str, password: str | None) -> int:
    now = database.clock()
    number = connection.execute(sa.insert(annotators).values(created=now)).inserted_primary_key
    assert number is not None
    connection.execute(
        sa.insert(identities).values(annotator_id=number[0], name=name, role=role, password=password, created=now)
    )
    return int(number[0])


_IDENTITY = sa.select(identities).where(identities.c.annotator_id == sa.bindparam("who", type_=sa.Integer))


def annotator_of(database: Database, number: int) -> Annotator | None:
    with database.reading() as connection:
        row = connection.execute(_IDENTITY, {"who": number}).one_or_none()
    return None if row is None else Annotator(row.annotator_id, row.name, row.role)


def invite(database: Database, name: str, *, role: str = "annotator") -> str:
    """A token with which this person, once and within seven days, chooses a password: the first, or another one."""
    name, token, now = check_name(name), secrets.token_urlsafe(32), database.clock()
    with database.writing() as connection:
        connection.execute(
            sa.insert(invitations).values(
                token_hash=_hashed(token), name=name, role=role, created=now, expires=now + INVITATION_SECONDS
            )
        )
    return token


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def invited(database: Database, token: str) -> str | None:
    """The name that an invitation is for; None if it is unknown, used or too old."""
    with database.reading() as connection:
        row = _invitation(database, connection, token)
    return None if row is None else str(row.name)


def _invitation(database: Database, connection: Connection, token: str) -> Any:
    query = sa.select(invitations).where(
        invitations.c.token_hash == _hashed(token),
        invitations.c.used.is_(None),
        invitations.c.expires > database.clock(),
    )
    return connection.execute(query).one_or_none()


def accept(database: Database, token: str, password: str) -> Annotator:
    """Uses an invitation, after which all others of its name are void: none of them was made to replace this password.

    Raises DataError for one that is not good, and for a password of a wrong length.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise DataError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    hashed = _hasher().hash(password)
    with database.writing() as connection:
        own = sa.select(invitations.c.name).where(invitations.c.token_hash == _hashed(token)).scalar_subquery()
        of_name = invitations.c.name == own
        # locked first, so that two links of one person are used one after the other
        connection.execute(sa.select(invitations.c.id).where(of_name).order_by(invitations.c.id).with_for_update())
        row = _invitation(database, connection, token)
        if row is None:
            raise DataError("this invitation is unknown, used or too old", fix="ask for another one")
        is_open = sa.and_(invitations.c.name == row.name, invitations.c.used.is_(None))
        connection.execute(sa.update(invitations).where(is_open).values(used=database.clock()))
        known = connection.execute(sa.select(identities).where(identities.c.name == row.name)).one_or_none()
        if known is None:
            return Annotator(_new(database, connection, row.name, row.role, hashed), row.name, row.role)
        connection.execute(
            sa.update(identities).where(identities.c.annotator_id == known.annotator_id).values(password=hashed)
        )
        return Annotator(known.annotator_id, row.name, _raise(connection, known, row.role))


def sign_in(database: Database, name: str, password: str) -> Annotator | None:
    """None for a wrong name or a wrong password, which take the same time."""
    with database.reading() as connection:
        row = connection.execute(sa.select(identities).where(identities.c.name == name.strip()[:100])).one_or_none()
    stored = row.password if row is not None and row.password is not None else _nobody()
    is_right = _hasher().verify(password[:LONGEST_PASSWORD], stored)
    if not is_right or row is None or row.password is None:
        return None
    return Annotator(row.annotator_id, row.name, row.role)


def erase(database: Database, name: str) -> int:
    """Removes an annotator's name, password and invitations. The judgements stay, under the number that it returns."""
    with database.writing() as connection:
        row = connection.execute(sa.select(identities).where(identities.c.name == name.strip())).one_or_none()
        if row is None:
            known = connection.scalars(sa.select(identities.c.name).order_by(identities.c.name)).all()
            raise DataError(
                "there is no annotator of this name", got=name, expected=", ".join(known) or "none is known"
            )
        connection.execute(sa.delete(identities).where(identities.c.annotator_id == row.annotator_id))
        connection.execute(sa.delete(invitations).where(invitations.c.name == row.name))
        connection.execute(sa.insert(tombstones).values(annotator_id=row.annotator_id, created=database.clock()))
        return int(row.annotator_id)


def session_key(database: Database) -> str:
    """What sessions are signed with: made once for each store, so that a restart signs nobody out."""
    with database.writing() as connection:
        key = get_setting(connection, "session_key")
        if key is None:
            key = secrets.token_hex(32)
            put_setting(connection, "session_key", key)
    return str(key)
