"""Who an annotator is: roles are only raised, by the owner's command or by an invitation."""

from __future__ import annotations

from assent.feedback.store.database import Database
from assent.feedback.store.people import accept, annotator_of, ensure_annotator, invite

PASSWORD = "correct horse battery"


def test_who_is_known_already_becomes_the_owner(database: Database) -> None:
    """A name that an import brought, or that was invited as an annotator."""
    known = ensure_annotator(database, "mia")
    owner = ensure_annotator(database, "mia", role="admin")
    assert (owner.id, owner.is_admin) == (known.id, True)
    assert annotator_of(database, known.id) == owner
    assert ensure_annotator(database, "mia") == owner, "and stays it"


def test_an_invitation_raises_a_role_and_lowers_none(database: Database) -> None:
    owner = ensure_annotator(database, "mia", role="admin")
    assert accept(database, invite(database, "mia"), PASSWORD) == owner
    assert annotator_of(database, owner.id) == owner
    known = ensure_annotator(database, "ben")
    raised = accept(database, invite(database, "ben", role="admin"), PASSWORD)
    assert (raised.id, raised.is_admin) == (known.id, True)
    assert annotator_of(database, known.id) == raised
