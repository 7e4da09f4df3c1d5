"""Rows of LLaMA-Factory and ms-swift mean what they mean there."""

from __future__ import annotations

import json

import pytest

from assent.data.formats import LAYOUTS as OURS
from assent.data.loading import groups_of_rows, load_groups
from assent.errors import DataError
from assent.types import Message, Preference

USER = {"role": "user", "content": "Hi"}
YES = {"role": "assistant", "content": "Yes"}
NO = {"role": "assistant", "content": "No"}
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}
Q, A, B = Message("user", "Hi"), Message("assistant", "Yes"), Message("assistant", "No")
DOWN, PAIR = Preference(thumbs=(False,)), Preference(ranking=(1, 2))
CELLS = {"messages": [USER, YES], "label": True, "winner": "answer_a"}


def test_the_error_for_unknown_columns_names_the_layouts_of_others_and_each_is_read():
    with pytest.raises(DataError, match="columns fit no layout") as raised:
        groups_of_rows([{"Kundenfrage": "Hi", "Antwort A": "Yes", "Antwort B": "No", "Urteil": "a"}])
    layouts = str(raised.value.expected).removeprefix("one of ").split(" · ")
    assert "question, answer_a, answer_b, winner" in layouts
    for layout in layouts[len(OURS) :]:
        row = {name: CELLS.get(name, f"text of {name}") for name in layout.split(", ")}
        assert groups_of_rows([row]).layout != "prompts"


@pytest.mark.parametrize(
    ("row", "layout", "prompt", "completions", "preference"),
    [
        ({"messages": [USER, YES], "kto_tag": False}, "thumbs", (Q,), ((A,),), DOWN),
        ({"conversations": [HUMAN, GPT], "kto_tag": False}, "thumbs", (Q,), ((A,),), DOWN),
        ({"messages": [USER, NO, USER, YES], "kto_tag": False}, "thumbs", (Q, B, Q), ((A,),), DOWN),
        ({"prompt": "Hi", "completion": "Yes", "kto_tag": False}, "thumbs", "Hi", ("Yes",), DOWN),
        ({"messages": [USER, YES], "label": False}, "thumbs", (Q,), ((A,),), DOWN),
        ({"messages": [USER, YES], "rejected_response": "No"}, "comparisons", (Q,), ((A,), (B,)), PAIR),
        (
            {"messages": [USER, NO, USER, YES], "rejected_response": "No"},
            "comparisons",
            (Q, B, Q),
            ((A,), (B,)),
            PAIR,
        ),
        (
            {"messages": [USER, YES], "rejected_messages": [USER, NO]},
            "implicit_comparisons",
            (Q,),
            ((A,), (B,)),
            PAIR,
        ),
        ({"prompt": "Hi", "response": "Yes", "rejected_response": "No"}, "comparisons", "Hi", ("Yes", "No"), PAIR),
        ({"prompt": "Hi", "completion": "Yes", "rejected_response": "No"}, "comparisons", "Hi", ("Yes", "No"), PAIR),
        (
            {"prompt": "Hi", "chosen_response": "Yes", "rejected_response": "No"},
            "comparisons",
            "Hi",
            ("Yes", "No"),
            PAIR,
        ),
    ],
)
def test_a_foreign_row_is_read_as_it_was_meant(row, layout, prompt, completions, preference):
    dataset = groups_of_rows([row | {"id": 7, "system": ""}])
    assert dataset.layout == layout
    (group,) = dataset
    assert (group.prompt, group.completions, group.preference) == (prompt, completions, preference)
    assert group.columns == {"id": 7}


def test_system_and_tools_go_along():
    (group,) = groups_of_rows([{"messages": [USER, YES], "kto_tag": True, "system": "Be brief.", "tools": [{"a": 1}]}])
    assert group.prompt == (Message("system", "Be brief."), Q)
    assert group.tools == ({"a": 1},)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_same_from_other_files(tmp_path, suffix):
    import datasets

    path = tmp_path / f"x.{suffix}"
    rows = [{"prompt": "Hi", "completion": text, "kto_tag": text == "Yes"} for text in ("No", "Yes")]
    if suffix == "csv":
        path.write_text("prompt,completion,kto_tag\nHi,No,false\nHi,Yes,True\n")
    else:
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    thumbs = [group.preference.thumbs for group in load_groups(path) if group.preference]
    assert thumbs == [(False,), (True,)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER, YES], "kto_tag": "perhaps"}, "`kto_tag` is not usable"),
        ({"messages": [USER, YES, USER], "kto_tag": False}, "`kto_tag` judges the last turn of `messages`"),
        ({"messages": [], "rejected_response": "No"}, "no assistant turn|is empty|looks like a judgement"),
        ({"messages": [USER, YES], "rejected_response": "Yes"}, "identical"),
    ],
)
def test_a_foreign_row_without_meaning_is_refused(row, message):
    with pytest.raises(DataError, match=message):
        groups_of_rows([row])


def test_a_row_without_its_thumb_is_no_demonstration_among_thumbs(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"messages": [USER, YES], "kto_tag": tag}) + "\n" for tag in (True, None)))
    with pytest.raises(DataError, match=r"x\.jsonl:2: this row's layout differs"):
        load_groups(path)


def test_a_layout_that_is_named_is_kept_and_the_judgement_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"messages": [USER, YES], "kto_tag": False}) + "\n")
    with pytest.raises(DataError, match="looks like a judgement"):
        load_groups(path, layout="messages")
    assert load_groups(path, layout="thumbs")[0].preference == DOWN


def asks(text):
    return Message("user", text)


@pytest.mark.parametrize(
    ("row", "layout", "prompt", "completions"),
    [
        ({"instruction": "Hi", "input": "", "output": "Yes"}, "demonstrations", (Q,), ((A,),)),
        ({"instruction": "Add", "input": "1 2", "output": "Yes"}, "demonstrations", (asks("Add\n1 2"),), ((A,),)),
        ({"instruction": "Hi", "chosen": "Yes", "rejected": "No"}, "comparisons", (Q,), ((A,), (B,))),
        ({"instruction": "Hi", "input": "", "output": "Yes", "kto_tag": False}, "thumbs", (Q,), ((A,),)),
        ({"instruction": "Hi", "output": "Yes", "history": [["Hi", "No"]]}, "demonstrations", (Q, B, Q), ((A,),)),
        ({"instruction": "Hi"}, "prompts", (Q,), ()),
        ({"question": "Hi", "answer": "Yes"}, "demonstrations", (Q,), ((A,),)),
        ({"question": "Hi", "chosen": "Yes", "rejected": "No"}, "comparisons", (Q,), ((A,), (B,))),
        ({"question": "Hi", "answer": "Yes", "score": 0.5}, "ratings", (Q,), ((A,),)),
    ],
)
def test_what_asks_and_what_answers_is_a_conversation(row, layout, prompt, completions):
    dataset = groups_of_rows([row | {"id": 7}])
    assert (dataset.layout, dataset[0].prompt, dataset[0].completions) == (layout, prompt, completions)
    assert dataset[0].columns == {"id": 7}
    (note,) = [line for line in dataset.notes if "conversation" in line]
    assert note.endswith("read as a conversation (1 row)")
    assert set(row) - {"kto_tag", "score"} <= set(note.split(":")[0].split(", "))


def test_a_system_prompt_stands_before_the_question():
    (group,) = groups_of_rows([{"system": "Be kind", "question": "Hi", "chosen": "Yes", "rejected": "No"}])
    assert group.prompt == (Message("system", "Be kind"), Q)


@pytest.mark.parametrize(
    ("row", "prompt", "kept"),
    [
        ({"prompt": "p", "completion": "c", "question": "q", "answer": "a"}, "p", {"question": "q", "answer": "a"}),
        ({"messages": [USER, YES], "instruction": "i", "output": "o"}, (Q,), {"instruction": "i", "output": "o"}),
    ],
)
def test_our_own_columns_come_first(row, prompt, kept):
    dataset = groups_of_rows([row])
    assert (dataset[0].prompt, dataset[0].columns, dataset.notes) == (prompt, kept, [])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "Hi", "output": ""}, "`completion` is empty"),
        ({"question": "Hi", "answer": 3}, "columns fit no layout"),
        ({"instruction": "Hi", "question": "Hi", "output": "a"}, "columns fit no layout"),
        ({"instruction": "Hi", "output": "Yes", "history": ["Hi"]}, "`history` is not usable"),
    ],
)
def test_what_is_not_certain_or_not_whole_is_refused(row, message):
    with pytest.raises(DataError, match=message):
        groups_of_rows([row])


PARTS = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo", "image_url": None}]


def test_content_in_parts_of_text_is_their_text_and_said_once():
    row = {"messages": [{"role": "user", "content": PARTS}, YES]}
    dataset = groups_of_rows([row, row, {"messages": [USER, YES]}])
    assert dataset[0].prompt == (Message("user", "Hello"),)
    assert dataset.notes == ["content in parts of type text: read as one text (2 rows)"]
    ranked = {"prompt": [USER], "completions": [[{"role": "assistant", "content": PARTS}], [NO]], "ranking": [1, 2]}
    assert groups_of_rows([ranked])[0].completions == ((Message("assistant", "Hello"),), (B,))


@pytest.mark.parametrize(
    "part", [{"type": "image", "url": "cat.png"}, {"type": "text", "text": "x", "citations": ["a"]}, {"type": "text"}]
)
def test_parts_that_hold_more_than_text_are_refused(part):
    with pytest.raises(DataError, match="is not text"):
        groups_of_rows([{"messages": [{"role": "user", "content": [PARTS[0], part]}, YES]}])


def test_parts_and_questions_are_read_in_tables_too(tmp_path):
    import datasets

    rows = [{"question": "Hi", "answer": "Yes"}] * 2
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    dataset = load_groups(tmp_path / "saved")
    assert [(group.prompt, group.completions) for group in dataset] == [((Q,), ((A,),))] * 2
