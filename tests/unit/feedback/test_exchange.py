"""The formats of Argilla and Label Studio, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assent.data.loading import groups_of_rows
from assent.errors import DataError
from assent.feedback.exchange import read_file, to_argilla, to_label_studio
from assent.feedback.store.database import Database
from assent.feedback.store.exporting import Selection, judged_items, select
from assent.feedback.store.importing import import_groups
from tests.support.judged_rows import ROWS, A, B, C, Q, as_sets


@pytest.mark.parametrize("format", ["argilla", "label-studio"])
@pytest.mark.parametrize("layout", ["comparisons", "rankings", "thumbs", "ratings"])
def test_other_tools_formats_go_both_ways(
    format: str, layout: str, database: Database, new_store: Callable[[], Database], tmp_path: Path
) -> None:
    plain = ("prompt", "chosen", "rejected", "completions", "ranking", "completion", "label", "score", "annotator")
    rows = [{name: value for name, value in row.items() if name in plain} for row in ROWS[layout]]
    if layout == "rankings":
        rows = [{"prompt": Q, "completions": [A, B, C], "ranking": [1, 3, 2]}, rows[1]]
    import_groups(database, list(groups_of_rows(rows)), source="mia")
    write = to_argilla if format == "argilla" else to_label_studio
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(write(judged_items(database, Selection()))))
    other = new_store()
    counts, _ = import_groups(other, read_file(str(file), format), source="b")
    assert counts["judgements"] == len(rows)
    before, after = ([as_sets(row.group) for row in select(one).rows] for one in (database, other))
    assert sorted(after) == sorted(before)


ARGILLA = {
    "id": "1",
    "fields": {"prompt": "Hi", "response-1": "Yes", "response-2": "No"},
    "responses": {
        "better": [
            {"value": "response-2", "user_id": "u1", "status": "submitted"},
            {"value": "tie", "user_id": "u2", "status": "submitted"},
            {"value": "response-1", "user_id": "u3", "status": "draft"},
        ],
        "comment": [{"value": "hm", "user_id": "u1"}],
    },
}
STUDIO = {
    "id": 5,
    "data": {"prompt": "Hi", "text1": "Yes", "text2": "No"},
    "annotations": [
        {"completed_by": 3, "result": [{"type": "pairwise", "to_name": "a,b", "value": {"selected": "right"}}]},
        {"completed_by": 4, "was_cancelled": True, "result": []},
        {"completed_by": {"email": "mia@example.org"}, "result": [
            {"type": "textarea", "to_name": "a", "value": {"text": ["hm"]}},
            {"type": "pairwise", "to_name": "text1,text2", "value": {"selected": "left"}}]},
    ],
}  # fmt: skip


def test_files_as_the_other_tools_write_them(tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps([ARGILLA]))
    found = read_file(str(file), "argilla")
    assert [one.preference.ranking for one in found if one.preference] == [(2, 1), (1, 1)]
    assert {one.completions for one in found} == {("Yes", "No")}
    file.write_text(json.dumps([STUDIO]))
    found = read_file(str(file), "label-studio")
    said = [(one.preference.annotator, one.preference.ranking) for one in found if one.preference]
    assert said == [("label-studio 3", (2, 1)), ("mia@example.org", (1, 2))]


def ranker(value: Any) -> dict[str, Any]:
    """The task of Label Studio's page on Ranker, answered."""
    items = [{"id": name, "title": name, "body": f"about {name}"} for name in ("blog", "mdn", "wiki")]
    result = {"from_name": "rank", "to_name": "results", "type": "ranker", "value": {"ranker": value}}
    return {"data": {"prompt": "Hi", "items": items}, "annotations": [{"completed_by": 3, "result": [result]}]}


@pytest.mark.parametrize("value", [{"rank": ["mdn", "wiki", "blog"]}, ["mdn", "wiki", "blog"]])
def test_a_ranker_of_label_studio_is_read_in_its_new_and_its_old_form(value: Any, tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps([ranker(value)]))
    (found,) = read_file(str(file), "label-studio")
    assert found.preference is not None
    assert (found.completions, found.preference.ranking) == (("about blog", "about mdn", "about wiki"), (3, 1, 2))


def test_a_whole_rating_is_written_as_a_whole_number(database: Database) -> None:
    """Argilla takes no 4.0."""
    import_groups(database, list(groups_of_rows(ROWS["ratings"])), source="a")
    for write in (to_argilla, to_label_studio):
        text = json.dumps(write(judged_items(database, Selection())))
        assert (": 4," in text or ": 4}" in text, "4.0" in text) == (True, False)


@pytest.mark.parametrize(
    ("format", "records", "said"),
    [
        ("argilla", "{", "not valid JSON"),
        ("argilla", {}, "no list of records"),
        ("argilla", [5], "record 1: a record is no object"),
        ("argilla", [{"fields": {"text": "a"}}], "has no prompt"),
        ("argilla", [{**ARGILLA, "responses": {"q": [{"value": "better"}]}}], "cannot be read as a preference"),
        ("argilla", [{**ARGILLA, "responses": {}}], "no answered record"),
        ("label-studio", [{"data": {"prompt": "a"}, "annotations": [{}]}], "record 1 is not what label-studio writes"),
        ("label-studio", [{**STUDIO, "data": {"prompt": "Hi", "x": "1"}}], "does not say which of its data"),
        ("label-studio", [ranker({"best": ["mdn"], "ads": ["blog"]})], "sorted into buckets"),
        ("label-studio", [ranker({"rank": ["mdn", "x", "blog"]})], "names other items than the task has"),
    ],
)
def test_what_cannot_be_read_names_the_record(format: str, records: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    file.write_text(records if isinstance(records, str) else json.dumps(records))
    with pytest.raises(DataError, match=said):
        read_file(str(file), format)


def test_label_studio_cannot_hold_ties_of_many(database: Database) -> None:
    import_groups(database, list(groups_of_rows(ROWS["rankings"][:1])), source="a")
    with pytest.raises(DataError, match="cannot hold ties"):
        to_label_studio(judged_items(database, Selection()))
