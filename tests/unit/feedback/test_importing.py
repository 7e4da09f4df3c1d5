"""An import takes names as they are written, and is whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from assent.data.loading import groups_of_rows
from assent.errors import DataError
from assent.feedback.store import importing
from assent.feedback.store.database import Database
from assent.feedback.store.exporting import select
from assent.feedback.store.importing import import_groups
from assent.feedback.store.labelling import next_assignment
from assent.feedback.store.schema import identities, items
from assent.types import Preference
from tests.support.feedback import fill, people, questions, say

Q = [{"role": "user", "content": "Hi"}]
A, B = ([{"role": "assistant", "content": text}] for text in ("Yes", "No"))


def test_a_judges_labels_are_imported_under_its_name(database: Database) -> None:
    names = ["big at http://127.0.0.1:8000/v1/chat/completions", "my_scores:score", "labels (1).jsonl", "m" * 101]
    rows = [
        {"prompt": Q, "chosen": [{"role": "assistant", "content": f"{n}"}], "rejected": A, "annotator": name}
        for n, name in enumerate(names)
    ]
    counts, _ = import_groups(database, list(groups_of_rows(rows)), source="a")
    assert counts["judgements"] == 4
    found = [row.group.preference.annotator for row in select(database).rows if row.group.preference]
    assert found[:3] == names[:3]
    assert found[3] is not None
    assert (found[3][:91], len(found[3])) == ("m" * 91, 100)
    assert import_groups(database, list(groups_of_rows(rows)), source="a")[0]["judgements"] == 0


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("山田\u3000太郎", "山田 太郎"),
        ("Jean\u00a0Roy", "Jean Roy"),
        ("نی\u200cما", "نی\u200cما"),
        ("ක්\u200dර", "ක්\u200dර"),
    ],
)
def test_names_of_other_writing_systems_are_imported(name: str, stored: str, database: Database) -> None:
    rows = [{"prompt": Q, "chosen": A, "rejected": B, "annotator": name}]
    import_groups(database, list(groups_of_rows(rows)), source="a")
    [row] = select(database).rows
    assert row.group.preference is not None
    assert row.group.preference.annotator == stored


@pytest.mark.parametrize("name", ["mia\nben", "mia\u2028ben", "\u202emia", "\x00", " ", "\u3000", "\u200d"])
def test_an_import_is_whole_or_not_at_all(name: str, database: Database) -> None:
    rows = [{"prompt": Q, "chosen": A, "rejected": B}, {"prompt": Q, "chosen": B, "rejected": A, "annotator": name}]
    with pytest.raises(DataError, match="cannot be an annotator's name"):
        import_groups(database, list(groups_of_rows(rows)), source="a")
    with pytest.raises(DataError, match="cannot be an annotator's name"):
        import_groups(database, list(groups_of_rows(rows[:1])), source=name)
    with database.reading() as connection:
        assert [connection.scalar(sa.select(sa.func.count()).select_from(one)) for one in (items, identities)] == [0, 0]


def test_what_fails_within_an_import_takes_all_of_it_back(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "_insert", fails)
    with pytest.raises(KeyboardInterrupt):
        import_groups(database, list(groups_of_rows([{"prompt": Q, "chosen": A, "rejected": B}])), source="a")
    with database.reading() as connection:
        assert [connection.scalar(sa.select(sa.func.count()).select_from(one)) for one in (items, identities)] == [0, 0]


def test_a_label_is_imported_of_an_item_that_its_author_has_open(database: Database) -> None:
    fill(database, 1)
    [author] = people(database, 1)
    given = next_assignment(database, author)
    assert given is not None
    for ranking, new in (((1, 2), 1), ((1, 2), 0), ((2, 1), 1)):
        label = Preference(ranking=ranking, annotator="annotator 0")
        counts, _ = import_groups(database, [replace(row, preference=label) for row in questions(1)], source="a")
        assert (counts["items"], counts["judgements"]) == (0, new)
    still = next_assignment(database, author)
    assert still == given
    assert say(database, given, [1, 2]) == "stored"
