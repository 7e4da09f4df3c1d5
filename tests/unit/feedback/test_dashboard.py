"""The dashboard's figures by hand, and people: invitations, passwords, erasure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import sqlalchemy as sa

from assent.errors import DataError
from assent.feedback.dashboard import dashboard
from assent.feedback.store.database import Database
from assent.feedback.store.importing import import_groups
from assent.feedback.store.items import add_guidelines, add_items
from assent.feedback.store.labelling import Mix, answer, next_assignment
from assent.feedback.store.people import (
    INVITATION_SECONDS,
    accept,
    check_name,
    ensure_annotator,
    invite,
    invited,
    session_key,
    sign_in,
)
from assent.feedback.tasks import gold_items
from assent.types import Preference
from tests.support.feedback import fill, label_all, questions
from tests.support.rows import comparison
from tests.unit.feedback.conftest import Clock

PASSWORD = "correct horse battery"


def test_an_empty_store_has_no_figures(database: Database) -> None:
    found = dashboard(database)
    assert (found.tasks, found.annotators) == ((), ())


def test_agreement_biases_and_annotators_by_hand(database: Database) -> None:
    """Mia always says answer 1 as shown; Ben the first as stored; they agree where both mean the same."""
    fill(database, 60, reviews=2)
    mia, ben = (ensure_annotator(database, name).id for name in ("mia", "ben"))
    said: dict[int, list[list[int]]] = {}

    def first_shown(given: object) -> list[int]:
        best = given.shown_order[0]  # type: ignore[attr-defined]
        ranking = [1 if place == best else 2 for place in range(2)]
        said.setdefault(given.item_id, []).append(ranking)  # type: ignore[attr-defined]
        return ranking

    def first_stored(given: object) -> list[int]:
        said.setdefault(given.item_id, []).append([1, 2])  # type: ignore[attr-defined]
        return [1, 2]

    label_all(database, mia, first_shown)
    label_all(database, ben, first_stored)
    agree = sum(a == b for a, b in said.values())
    assert 15 < agree < 45
    (found,) = dashboard(database, precision=0.1).tasks
    raw, fleiss, alpha = (line.estimate for line in found.agreement)
    assert raw is not None
    assert fleiss is not None
    assert alpha is not None
    assert (found.items, found.reviews, found.coverage) == (60, 120, 1.0)
    assert raw.value == pytest.approx(agree / 60)
    second_wins = 60 - agree
    p = (120 - second_wins) / 120
    assert fleiss.value == pytest.approx((agree / 60 - p**2 - (1 - p) ** 2) / (1 - p**2 - (1 - p) ** 2))
    (pair,) = found.pairs
    assert (pair.name, pair.note) == ("mia and ben", "60 items in common")
    assert pair.estimate is not None
    assert pair.estimate.value == pytest.approx(0), "one of two who always says the same agrees by chance alone"
    position = found.biases[0].estimate
    assert position is not None
    assert 0.6 < position.value < 0.9
    assert found.needed_prompts is not None
    assert found.needed_prompts > 0
    assert found.needed == 2 * found.needed_prompts, "one item of each prompt, two reviews of each item"
    lines = {line.name: line for line in dashboard(database).annotators}
    assert lines["mia"].reviews == 60
    assert lines["mia"].agreement is not None
    assert lines["mia"].agreement.value == pytest.approx(agree / 60)
    assert lines["mia"].drift is not None


def test_rankings_have_biases_over_their_pairs(database: Database) -> None:
    """By hand: answers of 8, 8 and 9 characters; always ranked as shown, the last two equal."""
    fill(database, 1, task="rank", answers=3)
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE completions SET characters = 8"))
        connection.execute(sa.text("UPDATE completions SET characters = 9 WHERE id = 3"))
    shown: list[tuple[int, ...]] = []

    def as_shown(given: object) -> list[int]:
        shown.append(given.shown_order)  # type: ignore[attr-defined]
        return [1 if place == shown[-1][0] else 2 for place in range(3)]

    label_all(database, ensure_annotator(database, "mia").id, as_shown)
    (task,) = dashboard(database).tasks
    values = {line.name: line.estimate.value for line in task.biases if line.estimate is not None}
    assert values["the answer shown earlier wins"] == 1.0, "in both pairs that it tells apart"
    assert values["equally good"] == pytest.approx(1 / 3)
    with database.reading() as connection:
        place_of_long = connection.scalar(sa.text("SELECT completion_ids FROM items"))
    long = json.loads(place_of_long).index(3)
    assert values["the longer answer wins"] == (1.0 if long == shown[0][0] else 0.0)


def test_labels_from_files_have_neither_a_place_nor_guidelines(database: Database) -> None:
    rows = [replace(row, preference=Preference(ranking=(1, 2), annotator="kim")) for row in questions(5)]
    import_groups(database, rows, source="file")
    (task,) = dashboard(database).tasks
    assert (task.reviews, task.versions) == (5, ())
    figures = {line.name: line.estimate for line in task.biases}
    assert figures["answer 1 wins"] is None
    assert figures["equally good"] is not None


def test_drift_is_found_where_an_annotator_tires(database: Database) -> None:
    fill(database, 60, reviews=2)
    steady, tired = (ensure_annotator(database, name).id for name in ("steady", "tired"))
    label_all(database, steady)
    count = iter(range(60))
    label_all(database, tired, lambda _: [1, 2] if next(count) < 30 else [2, 1])
    drift = {line.name: line.drift for line in dashboard(database).annotators}["tired"]
    assert drift is not None
    assert drift.value == pytest.approx(-1.0)
    assert drift.high < 0


def test_gold_and_repeats_measure_annotators_alone(database: Database) -> None:
    fill(database, 30)
    gold = gold_items([comparison(n) for n in range(100, 104)], "compare")
    add_items(database, gold, task="compare", reviews=0)
    mia = ensure_annotator(database, "mia").id
    with database.reading() as connection:
        rows = connection.execute(sa.text("SELECT id, gold FROM items WHERE gold IS NOT NULL"))
        answers = {row.id: row.gold for row in rows}

    label_all(database, mia, mix=Mix(gold_every=4, repeat_every=5))
    (line,) = dashboard(database).annotators
    right = sum(value == '{"ranking":[1,2]}' for value in answers.values())
    assert line.gold is not None
    assert line.gold.value == pytest.approx(right / 4)
    assert line.repeats is not None
    assert line.repeats.value == 1.0
    (task,) = dashboard(database).tasks
    assert (task.reviews, task.coverage) == (30, 0.0)
    assert task.agreement[0].note == "no item has two reviews"


def test_versions_of_the_guidelines_are_told_apart(database: Database) -> None:
    fill(database, 10, reviews=2)
    mia, ben = (ensure_annotator(database, name).id for name in ("mia", "ben"))
    first = add_guidelines(database, "one")
    label_all(database, mia)
    assert add_guidelines(database, "two") != first
    label_all(database, ben, lambda _: [1, 1])
    assert add_guidelines(database, "one") == first, "the same text is the same version"
    (task,) = dashboard(database).tasks
    assert [(one.name, one.reviews) for one in task.versions] == [("version 1", 10), ("version 2", 10)]
    assert [one.ties.value for one in task.versions if one.ties is not None] == [0.0, 1.0]
    assert [one.change for one in task.versions] == [None, None], "no item has two reviews within a version"


def test_versions_of_the_guidelines_are_compared(database: Database) -> None:
    """Before them two people agree on every second item, with them on all but the last."""
    mia, ben = (ensure_annotator(database, name).id for name in ("mia", "ben"))
    for text, count, differing in ((None, 20, range(1, 20, 2)), ("one", 40, range(19, 20))):
        if text is not None:
            add_guidelines(database, text)
        fill(database, count, reviews=2)  # the first twenty of them are there already
        given = label_all(database, mia)
        places = {item: place for place, item in enumerate(given)}
        unequal = [item for item in given if places[item] in differing]
        label_all(database, ben, lambda one, apart=unequal: [2, 1] if one.item_id in apart else [1, 2])
    (task,) = dashboard(database).tasks
    before, after = task.versions
    assert (before.name, after.name) == ("no guidelines", "version 1")
    assert after.agreement is not None
    assert after.change is not None
    assert (before.change, after.agreement.value) == (None, 0.95)
    assert after.change.value == pytest.approx(0.95 - 0.5)
    assert 0.1 < after.change.low < 0.45 < after.change.high < 0.8


def test_ratings_agree_by_distance(database: Database) -> None:
    fill(database, 12, reviews=2, task="rate", answers=1)
    for name, shift in (("mia", 0), ("ben", 1)):
        annotator = ensure_annotator(database, name).id
        while (given := next_assignment(database, annotator)) is not None:
            value = {"scores": [1 + given.item_id % 4 + shift]}
            answer(database, given.id, annotator, revision=0, value=value)
    (task,) = dashboard(database).tasks
    raw, _, alpha = (line.estimate for line in task.agreement)
    assert raw is not None
    assert raw.value == 0.0
    assert alpha is not None
    assert alpha.value > 0.5
    assert task.ceiling is None


def test_an_invitation_is_for_one_person_and_a_week(database: Database, clock: Clock) -> None:
    token = invite(database, "mia", role="admin")
    assert invited(database, token) == "mia"
    clock.now += INVITATION_SECONDS + 1
    assert invited(database, token) is None
    with pytest.raises(DataError, match="unknown, used or too old"):
        accept(database, token, PASSWORD)
    token = invite(database, "mia", role="admin")
    person = accept(database, token, PASSWORD)
    assert (person.name, person.is_admin) == ("mia", True)
    with pytest.raises(DataError, match="unknown, used or too old"):
        accept(database, token, PASSWORD)
    assert sign_in(database, " mia ", PASSWORD) == person
    assert sign_in(database, "mia", PASSWORD + "x") is None
    another = invite(database, "mia")
    assert sign_in(database, "mia", PASSWORD) == person, "a link alone changes nothing"
    assert accept(database, another, "a forgotten one") == person
    assert (sign_in(database, "mia", PASSWORD), sign_in(database, "mia", "a forgotten one")) == (None, person)
    assert sign_in(database, "ben", PASSWORD) is None


def test_who_labelled_on_loopback_can_get_a_password_later(database: Database) -> None:
    owner = ensure_annotator(database, "owner", role="admin")
    assert accept(database, invite(database, "owner"), PASSWORD).id == owner.id


def test_passwords_are_kept_as_argon2_and_tokens_as_hashes(database: Database) -> None:
    token = invite(database, "mia")
    accept(database, token, PASSWORD)
    with database.reading() as connection:
        stored = connection.scalar(sa.text("SELECT password FROM identities"))
        assert connection.scalar(sa.text("SELECT token_hash FROM invitations")) != token
    assert stored.startswith("$argon2id$")


def test_two_invitations_for_one_name_make_one_account(database: Database) -> None:
    one, two = invite(database, "mia"), invite(database, "mia")
    accept(database, one, PASSWORD)
    with pytest.raises(DataError, match="unknown, used or too old"):
        accept(database, two, "another password")
    assert sign_in(database, "mia", "another password") is None


@pytest.mark.parametrize("name", ["", " ", "a" * 101, "<script>", "mia\x00", "a\nb"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(DataError, match="annotator's name"):
        check_name(name)


def test_sessions_survive_a_restart(database: Database) -> None:
    assert session_key(database) == session_key(database)
    assert len(session_key(database)) == 64
