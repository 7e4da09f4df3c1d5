"""What is exported is what was judged, in every layout, and each export says which judgements it took."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assent.data.formats import LAYOUTS
from assent.data.loading import groups_of_rows, load_groups, write_groups
from assent.data.texts import last_content
from assent.errors import DataError
from assent.feedback.store.database import Database
from assent.feedback.store.exporting import (
    DECIDED,
    GOLD,
    KIND_OF_LAYOUT,
    REPEAT,
    choose_layout,
    keep_layout,
    majority,
    neutral,
    ranges,
    select,
    write_export,
)
from assent.feedback.store.importing import import_groups
from assent.feedback.store.items import add_items
from assent.feedback.store.labelling import Mix, next_assignment, next_dispute
from assent.feedback.store.people import ensure_annotator, erase
from assent.feedback.store.reading import read_items
from assent.feedback.tasks import gold_items, to_items
from assent.types import PromptGroup
from tests.support.feedback import fill, label_all, questions, say
from tests.support.judged_rows import ROWS, A, B, C, Q, as_sets
from tests.support.rows import comparison, group, read_rows


@pytest.mark.parametrize("layout", sorted(ROWS))
def test_every_layout_with_a_judgement_goes_in_and_comes_out(layout: str, database: Database, tmp_path: Path) -> None:
    before = list(groups_of_rows(ROWS[layout]))
    counts, _ = import_groups(database, before, source="file a.jsonl")
    assert counts["judgements"] == len(before)
    again, _ = import_groups(database, before, source="file a.jsonl")
    assert again["judgements"] == again["items"] == 0, "the same file again adds nothing"
    found = select(database)
    keep_layout(found, layout)
    write_export(database, str(tmp_path / "out.jsonl"), found, layout)
    after = list(load_groups(tmp_path / "out.jsonl", layout=layout))
    assert sorted(map(as_sets, after)) == sorted(map(as_sets, before))
    named = [one.preference.annotator for one in before if one.preference and one.preference.annotator]
    said = [one.preference.annotator for one in after if one.preference]
    assert set(named) <= set(said)


def test_every_layout_that_holds_a_judgement_is_tested() -> None:
    assert set(ROWS) == set(KIND_OF_LAYOUT)
    assert set(KIND_OF_LAYOUT) == set(LAYOUTS) - {"demonstrations", "messages", "sharegpt", "prompts"}


def test_rows_without_a_judgement_add_their_texts(database: Database) -> None:
    rows = [{"messages": Q + A}, {"messages": Q + B}]
    counts, _ = import_groups(database, list(groups_of_rows(rows)), source="a")
    assert counts == {"rows": 2, "items": 2, "judgements": 0}
    with pytest.raises(DataError, match="nothing to import"):
        import_groups(database, list(groups_of_rows([{"prompt": Q}])), source="a")


def test_two_files_with_the_pair_the_other_way_round_are_one_item(database: Database) -> None:
    one, two = groups_of_rows([{"prompt": Q, "chosen": A, "rejected": B}]), groups_of_rows(
        [{"prompt": Q, "chosen": B, "rejected": A}]
    )  # fmt: skip
    import_groups(database, list(one), source="mia")
    counts, _ = import_groups(database, list(two), source="ben")
    assert counts == {"rows": 1, "items": 0, "judgements": 1}
    assert majority_of(database) == []


def majority_of(database: Database) -> list[PromptGroup]:
    return [row.group for row in select(database, aggregate="majority").rows]


def test_a_column_with_an_entry_for_each_completion_follows_it(database: Database, tmp_path: Path) -> None:
    """As `judge` writes them. The store has an order of its own, and an export another one: the best first."""
    rows = [
        {"prompt": Q, "completions": texts, "ranking": [1, 2, 3], "writer": writers, "topic": "x", "annotator": name}
        for name, texts, writers in (("mia", [C, A, B], ["c", "a", "b"]), ("ben", [B, A, C], ["b", "a", "c"]))
    ]
    counts, _ = import_groups(database, list(groups_of_rows(rows)), source="file")
    assert counts == {"rows": 2, "items": 1, "judgements": 2}, "two files' orders are one item"
    write_export(database, str(tmp_path / "out.jsonl"), select(database), "rankings")
    assert read_rows(tmp_path / "out.jsonl") == rows
    (joined,) = select(database, aggregate="majority").rows  # by their mean ranks all three tie
    texts = [last_content(text) for text in joined.group.completions]
    assert dict(zip(texts, joined.group.columns["writer"], strict=True)) == {"Yes": "a", "No": "b", "Perhaps": "c"}


def test_comments_and_who_wrote_each_answer_are_exported(
    database: Database, new_store: Callable[[], Database], tmp_path: Path
) -> None:
    rows = [replace(group(1, text), columns={"model": f"model {text}"}) for text in ("one", "two")]
    items, _ = to_items(rows, "compare")
    add_items(database, items, task="compare", reviews=2)
    for name, best, comment in (("mia", "two", "=1+1 is wrong"), ("ben", "one", "")):
        given = next_assignment(database, ensure_annotator(database, name).id)
        assert given is not None
        with database.reading() as connection:
            texts = read_items(connection, [given.item_id])[given.item_id].completions
        say(database, given, [1 if last_content(text) == best else 2 for text in texts], comment=comment)
    found = select(database)
    write_export(database, str(tmp_path / "out.jsonl"), found, "comparisons")
    first, second = read_rows(tmp_path / "out.jsonl")
    assert (first["model"], first["comment"]) == (["model two", "model one"], "=1+1 is wrong")
    assert (second["model"], "comment" in second) == (["model one", "model two"], False)
    write_export(database, str(tmp_path / "out.csv"), found, "comparisons")
    assert "'=1+1 is wrong" in (tmp_path / "out.csv").read_text()
    other = new_store()
    counts, _ = import_groups(other, list(load_groups(tmp_path / "out.jsonl")), source="file")
    assert (counts["items"], counts["judgements"]) == (1, 2), "a comment belongs to the judgement, not to the item"
    write_export(other, str(tmp_path / "again.jsonl"), select(other), "comparisons")
    assert read_rows(tmp_path / "again.jsonl") == [first, second]


def test_ties_make_rankings_and_comparisons_leave_them_out(database: Database) -> None:
    fill(database, 3)
    annotator, orders = ensure_annotator(database, "mia").id, iter([[1, 2], [1, 1], [2, 1]])
    label_all(database, annotator, lambda _: next(orders))
    found = select(database)
    assert choose_layout(found.rows) == "rankings"
    keep_layout(found, "comparisons")
    assert [row.judgements for row in found.rows] == [[1], [3]]
    assert dict(found.left_out) == {REPEAT: [], "a tie": [2]}
    assert choose_layout(found.rows) == "comparisons"


def test_gold_repeats_and_decided_reviews_are_left_out_and_named(database: Database, tmp_path: Path) -> None:
    fill(database, 15, reviews=2)
    add_items(database, gold_items([comparison(100)], "compare"), task="compare", reviews=0)
    mia, ben, judge = (ensure_annotator(database, name).id for name in ("mia", "ben", "judge"))
    label_all(database, mia, mix=Mix(gold_every=2, repeat_every=13))
    first = True

    def choose(_: object) -> list[int]:
        nonlocal first
        ranking, first = ([2, 1] if first else [1, 2]), False
        return ranking

    label_all(database, ben, choose)
    case = next_dispute(database, judge)
    assert case is not None
    say(database, case, [2, 1])
    found = select(database)
    counts = {reason: len(numbers) for reason, numbers in found.left_out.items()}
    assert counts == {GOLD: 1, REPEAT: 1, DECIDED: 2}
    assert len(found.rows) == 29
    assert {row.group.preference.annotator for row in found.rows if row.group.preference} == {"mia", "ben", "judge"}
    manifest = write_export(database, str(tmp_path / "out.jsonl"), found, "comparisons")
    kept = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert kept == json.loads(json.dumps(manifest))
    numbers = [n for low, high in kept["judgements"] for n in range(low, high + 1)]
    numbers += [n for parts in kept["left_out"].values() for low, high in parts for n in range(low, high + 1)]
    assert sorted(numbers) == list(range(1, 34)), "every judgement is taken or left out with a reason"


def test_the_majority_is_one_row_for_each_item(database: Database) -> None:
    fill(database, 2, reviews=3)
    for name, ranking in (("a", [1, 2]), ("b", [1, 2]), ("c", [2, 1])):
        label_all(database, ensure_annotator(database, name).id, lambda _, said=ranking: said)
    found = select(database, aggregate="majority")
    assert [len(row.judgements) for row in found.rows] == [3, 3]
    first = found.rows[0].group
    assert first.preference is not None
    assert (first.preference.ranking, first.preference.annotator) == ((1, 2), None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([{"ranking": [1, 2]}], {"ranking": [1, 2]}),
        ([{"ranking": [1, 2]}, {"ranking": [2, 1]}], None),
        ([{"ranking": [1, 2]}, {"ranking": [2, 1]}, {"ranking": [1, 1]}], None),
        ([{"ranking": [1, 2]}, {"ranking": [1, 1]}, {"ranking": [1, 1]}], {"ranking": [1, 1]}),
        ([{"ranking": [1, 2, 3]}, {"ranking": [1, 3, 2]}], {"ranking": [1, 2, 2]}),
        ([{"scores": [4]}, {"scores": [1]}], {"scores": [2.5]}),
        ([{"thumbs": [True]}, {"thumbs": [False]}], None),
    ],
)
def test_a_majority_by_hand(values: list[Any], said: Any) -> None:
    assert majority(values) == said


def test_an_erased_annotator_is_a_number_in_the_export(database: Database) -> None:
    fill(database, 1)
    annotator = ensure_annotator(database, "mia").id
    label_all(database, annotator)
    assert erase(database, "mia") == annotator
    (row,) = select(database).rows
    assert row.group.preference is not None
    assert row.group.preference.annotator == f"annotator {annotator}"
    with pytest.raises(DataError, match="no annotator of this name"):
        erase(database, "mia")


def test_a_csv_cannot_be_a_formula(database: Database, tmp_path: Path) -> None:
    texts = ['=HYPERLINK("https://example.org")', "@SUM(1)", "-2+3", "+1", "\t=1", "\uff1d1+1", "plain"]
    items, _ = to_items([PromptGroup(prompt="=1+1", completions=tuple(texts))], "rate")
    add_items(database, items, task="rate", reviews=1)
    annotator = ensure_annotator(database, "@mia"[1:]).id
    from assent.feedback.store.labelling import answer

    while (given := next_assignment(database, annotator)) is not None:
        answer(database, given.id, annotator, revision=0, value={"scores": [3]})
    found = select(database)
    write_export(database, str(tmp_path / "out.csv"), found, "ratings")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["completion"] for row in rows} == {f"'{text}" for text in texts[:-1]} | {"plain"}
    assert {row["prompt"] for row in rows} == {"'=1+1"}
    assert {row["score"] for row in rows} == {"3"}
    assert neutral("a=1") == "a=1"


def test_ranges_by_hand() -> None:
    assert ranges([3, 1, 2, 7]) == [[1, 3], [7, 7]]
    assert ranges([]) == []


def test_mixed_kinds_need_a_layout(database: Database) -> None:
    import_groups(database, list(groups_of_rows(ROWS["ratings"])), source="a")
    import_groups(database, list(groups_of_rows(ROWS["thumbs"])), source="a")
    found = select(database)
    with pytest.raises(DataError, match="one kind of judgement"):
        choose_layout(found.rows)
    keep_layout(found, "thumbs")
    assert choose_layout(found.rows) == "thumbs"
    assert found.left_out["a judgement of another kind (scores)"] == [1]
    with pytest.raises(DataError, match="holds no judgement"):
        keep_layout(found, "prompts")


def test_items_from_rows(tmp_path: Path) -> None:
    items, lines = to_items(questions(3, 4), "compare")
    assert len(items) == 3 * 6
    items, lines = to_items(questions(3, 4), "compare", pairs_per_prompt=2)
    assert len(items) == 6
    assert "12 pairs left out" in lines[-1]
    assert to_items(questions(3, 4), "compare", pairs_per_prompt=2)[0] == items, "the seed decides"
    assert to_items(questions(3, 4), "compare", pairs_per_prompt=2, seed=1)[0] != items
    assert len(to_items(questions(3, 4), "rank")[0]) == 3
    assert len(to_items(questions(3, 4), "thumbs")[0]) == 12
    singles = [group(n, text) for n in range(2) for text in ("one", "two", "one")]
    write_groups(tmp_path / "singles.jsonl", singles, "demonstrations")
    items, lines = to_items(load_groups(tmp_path / "singles.jsonl"), "compare")
    assert (len(items), lines[1]) == (2, "2 completions equal to another one of the same prompt, and judged as one")
    items, lines = to_items([*questions(1), group(9, "alone")], "compare")
    assert lines[-1] == "1 prompt with fewer than two different completions left out"
    with pytest.raises(DataError, match="nothing to judge"):
        to_items([group(1, "alone")], "compare")
    with pytest.raises(DataError, match="at most 9"):
        to_items(questions(1, 10), "rank")


def test_gold_needs_the_kind_of_the_task() -> None:
    with pytest.raises(DataError, match="needs a row with scores"):
        gold_items([comparison(1)], "rate")
    with pytest.raises(DataError, match="needs a row with ranking"):
        gold_items(questions(1), "compare")
