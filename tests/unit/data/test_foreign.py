"""Rows of LLaMA-Factory and ms-swift mean what they mean there."""

from __future__ import annotations

import json

import pytest

from assent.data.loading import groups_of_rows, load_groups
from assent.errors import DataError
from assent.types import Message, Preference

USER = {"role": "user", "content": "Hi"}
YES = {"role": "assistant", "content": "Yes"}
NO = {"role": "assistant", "content": "No"}
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}
Q, A, B = Message("user", "Hi"), Message("assistant", "Yes"), Message("assistant", "No")
DOWN, PAIR = Preference(thumbs=(False,)), Preference(ranking=(1, 2))


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
