"""Exports of labelling tools: two answers and which is better; rows within rows; a file that is one object."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from assent.data.auditing import audit
from assent.data.loading import groups_of_rows, load_groups
from assent.errors import DataError
from assent.types import Message, Preference

ANSWERS = {"answer_a": "Yes", "answer_b": "No"}
Q, A, B = Message("user", "Hi"), Message("assistant", "Yes"), Message("assistant", "No")


@pytest.mark.parametrize(
    ("winner", "ranking"),
    [("a", (1, 2)), ("B", (2, 1)), ("answer_b", (2, 1)), ("Answer A", (1, 2)), ("model_b", (2, 1)), (" tie ", (1, 1)),
     ("both", (1, 1)), ("tie (bothbad)", (1, 1))],
)  # fmt: skip
def test_two_answers_and_a_winner_are_a_ranking(winner: str, ranking: tuple[int, int]) -> None:
    dataset = groups_of_rows([{"question": "Hi", **ANSWERS, "winner": winner, "agent": "mia"}])
    assert dataset.layout == "rankings"
    (group,) = dataset
    assert (group.prompt, group.completions) == ((Q,), ((A,), (B,)))
    assert group.preference == Preference(ranking=ranking)
    assert group.columns == {"agent": "mia"}
    assert any("answer_a, answer_b, winner: read as completions" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("columns", "judge", "ranking"),
    [
        (("response_1", "response_2"), {"preference": 2}, (2, 1)),
        (("response_1", "response_2"), {"preference": 1.0}, (1, 2)),
        (("output_0", "output_1"), {"choice": "0"}, (1, 2)),
        (("output_0", "output_1"), {"choice": "output_1"}, (2, 1)),
    ],
)
def test_numbers_count_as_the_columns_do(columns: Any, judge: Any, ranking: tuple[int, int]) -> None:
    (group,) = groups_of_rows([{"prompt": "Hi", **dict(zip(columns, ("Yes", "No"), strict=True)), **judge}])
    assert (group.prompt, group.completions) == ("Hi", ("Yes", "No"))
    assert group.preference == Preference(ranking=ranking)


@pytest.mark.parametrize("winner", ["c", "2", 0, True, "mia"])
def test_a_winner_that_is_neither_is_an_error(winner: object) -> None:
    with pytest.raises(DataError, match=r"`winner` names neither answer(?s:.*)a, b, answer_a, answer_b, tie"):
        groups_of_rows([{"prompt": "Hi", **ANSWERS, "winner": winner}])


def test_rows_that_nobody_judged_are_refused_and_counted() -> None:
    rows = [{"prompt": f"Hi {n}", **ANSWERS, "winner": winner} for n, winner in enumerate(["a", None, "", "b"])]
    dataset = groups_of_rows(rows)
    assert len(dataset) == 2
    assert {reason: len(at) for reason, at in dataset.refused_by_reason().items()} == {
        "no judgement of the two answers": 2
    }


@pytest.mark.parametrize(
    "more",
    [{"answer_c": "Maybe"}, {"preference": "b"}, {"response_a": "x", "response_b": "y"}],
    ids=["three answers", "two judges", "two pairs"],
)
def test_what_could_mean_something_else_is_not_read_so(more: dict[str, str]) -> None:
    assert groups_of_rows([{"prompt": "Hi", **ANSWERS, "winner": "a", **more}]).layout == "prompts"


def test_names_with_dots_lead_into_nested_rows(tmp_path: Path) -> None:
    row = {"id": 3, "input": {"messages": [{"role": "user", "content": "Hi"}]}, "label": {"preferred": 1},
           "outputs": [{"text": "Yes", "model": "m1"}, {"text": "No", "model": "m2"}]}  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    names = {"input.messages": "prompt", "outputs.0.text": "answer_0", "outputs.1.text": "answer_1",
             "label.preferred": "winner"}  # fmt: skip
    dataset = load_groups(file, columns=names)
    (group,) = dataset
    assert (group.prompt, group.completions) == ((Q,), ((A,), (B,)))
    assert group.preference == Preference(ranking=(2, 1))
    assert group.columns == {"id": 3, "outputs.0.model": "m1", "outputs.1.model": "m2"}
    assert audit(dataset).unread_columns == {"id": 1, "outputs.0.model": 1, "outputs.1.model": 1}
    assert "columns: input.messages as prompt, outputs.0.text as answer_0" in dataset.notes[0]
    for wrong in ("outputs.2.text", "outputs.0.txt", "outputs.first.text", "id.text"):
        with pytest.raises(DataError, match=f"no column {wrong}"):
            load_groups(file, columns={**names, wrong: "system"})


def test_a_column_whose_name_has_a_dot_is_that_column(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"a.b": "Hi", "a": {"b": "other"}, "completion": "Yes"}) + "\n")
    (group,) = load_groups(tmp_path / "rows.jsonl", columns={"a.b": "prompt"})
    assert group.prompt == "Hi"


@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_that_is_one_object_says_which_list_holds_the_rows(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "export.json"
    file.write_text(json.dumps({"version": 2, "items": [{"prompt": "Hi"}, {"prompt": "Ho"}]}, indent=indent))
    command = re.escape(f"jq .items {file} > rows.json")
    with pytest.raises(DataError, match=f"is one object, whose `items` holds 2 objects(?s:.*){command}"):
        load_groups(file)
    chats = [{"id": n, "messages": [{"role": "user", "content": "Hi"}]} for n in range(2)]
    file.write_text(json.dumps({"version": 2, "conversations": chats}, indent=indent))  # no turns: rows of their own
    with pytest.raises(DataError, match="whose `conversations` holds 2 objects"):
        load_groups(file)


def test_one_row_of_messages_is_a_row(tmp_path: Path) -> None:
    file = tmp_path / "row.json"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    file.write_text(json.dumps({"messages": turns}))
    assert load_groups(file).layout == "messages"


def test_looking_for_an_object_around_the_rows_leaves_the_files_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('{"prompt": "broken\n' + '{"prompt": "Hi", "chosen": "Yes", "rejected": "No"}\n' * 2)
    found = load_groups(file, lenient=True)
    assert (len(found), len(found.refused)) == (2, 1)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_messages_with_other_keys_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"has no role(?s:.*)speaker, text(?s:.*)to do: +rename the keys"):
        groups_of_rows([{"messages": [{"speaker": "user", "text": "Hi"}]}])
