"""Every layout: one row written by hand and the group it means."""

from __future__ import annotations

import json

import pytest

from assent.data.formats import CANDIDATES, LAYOUTS, detect_layout, parse_row, write_row
from assent.data.loading import load_groups
from assent.data.texts import RowError
from assent.errors import DataError
from assent.types import Message, Preference, PromptGroup

USER = {"role": "user", "content": "Hi"}
YES = {"role": "assistant", "content": "Yes"}
NO = {"role": "assistant", "content": "No"}
Q = (Message("user", "Hi"),)
A = (Message("assistant", "Yes"),)
B = (Message("assistant", "No"),)
PAIR = Preference(ranking=(1, 2))

CASES = {
    "demonstrations": ({"prompt": "Hi", "completion": " Yes"}, PromptGroup(prompt="Hi", completions=(" Yes",))),
    "messages": (
        {"messages": [USER, YES, USER, NO]},
        PromptGroup(prompt=Q, completions=((*A, *Q, *B),)),
    ),
    "comparisons": (
        {"prompt": [USER], "chosen": [YES], "rejected": [NO], "margin": 2, "chosen_probability": 0.75},
        PromptGroup(
            prompt=Q,
            completions=(A, B),
            preference=Preference(ranking=(1, 2), margin=2.0, chosen_probability=0.75),
        ),
    ),
    "implicit_comparisons": (
        {"chosen": [USER, YES, USER, YES], "rejected": [USER, YES, USER, NO]},
        PromptGroup(prompt=(*Q, *A, *Q), completions=(A, B), preference=PAIR),
    ),
    "rankings": (
        {"prompt": "Hi", "completions": ["a", "b", "c"], "ranking": [2, 1, 1]},
        PromptGroup(prompt="Hi", completions=("a", "b", "c"), preference=Preference(ranking=(2, 1, 1))),
    ),
    "scores": (
        {"prompt": "Hi", "completions": ["a", "b"], "scores": [0.5, -3], "logps": [-1.5, -2.0]},
        PromptGroup(prompt="Hi", completions=("a", "b"), preference=Preference(scores=(0.5, -3.0)), logps=(-1.5, -2.0)),
    ),
    "thumbs": (
        {"prompt": "Hi", "completion": "a", "label": False, "weight": 0.5},
        PromptGroup(prompt="Hi", completions=("a",), preference=Preference(thumbs=(False,), weight=0.5)),
    ),
    "ratings": (
        {"prompt": "Hi", "completion": "a", "score": 4, "annotator": "ann"},
        PromptGroup(prompt="Hi", completions=("a",), preference=Preference(scores=(4.0,), annotator="ann")),
    ),
    "stepwise": (
        {"prompt": "1+1+1?", "completions": ["1+1=2", "2+1=4"], "labels": [True, False]},
        PromptGroup(
            prompt="1+1+1?",
            completions=("1+1=2\n2+1=4",),
            preference=Preference(step_labels=((1.0, 0.0),)),
            steps=(("1+1=2", "2+1=4"),),
        ),
    ),
    "sharegpt_comparisons": (
        {
            "conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Yes"},
            "rejected": {"from": "gpt", "value": "No"},
        },
        PromptGroup(prompt=(Message("system", "S"), *Q), completions=(A, B), preference=PAIR),
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
        PromptGroup(prompt=Q, completions=(A,)),
    ),
    "prompts": ({"prompt": [USER], "topic": "greeting"}, PromptGroup(prompt=Q, columns={"topic": "greeting"})),
}


def test_every_layout_has_a_case():
    assert set(CASES) == set(LAYOUTS)


@pytest.mark.parametrize("name", CASES)
def test_row_is_detected_and_read_as_the_group_it_means(name):
    row, group = CASES[name]
    assert detect_layout(row.keys()).name == name
    assert parse_row(row, LAYOUTS[name]) == group


@pytest.mark.parametrize("name", CASES)
def test_the_group_is_written_as_the_row_it_came_from(name):
    row, group = CASES[name]
    assert write_row(group, LAYOUTS[name]) == row


def test_system_tools_and_template_options_belong_to_conversations():
    row = {
        "prompt": [USER],
        "completion": [YES],
        "system": "Be brief.",
        "tools": '[{"type": "function", "function": {"name": "f"}}]',
        "chat_template_kwargs": {"enable_thinking": False},
    }
    group = parse_row(row, LAYOUTS["demonstrations"])
    assert group.prompt == (Message("system", "Be brief."), *Q)
    assert group.tools == ({"type": "function", "function": {"name": "f"}},)
    assert group.chat_template_kwargs == {"enable_thinking": False}
    assert group.columns == {}


@pytest.mark.parametrize("column", ["system", "tools", "chat_template_kwargs"])
def test_a_template_column_beside_raw_text_is_refused_since_it_would_have_no_effect(column):
    row = {"prompt": "Hi", "completion": "a", column: {"system": "s", "tools": [{"a": 1}]}.get(column, {"a": 1})}
    with pytest.raises(RowError, match="raw text"):
        parse_row(row, LAYOUTS["demonstrations"])


def test_a_second_system_message_is_an_error():
    row = {"prompt": [{"role": "system", "content": "a"}, USER], "completion": [YES], "system": "b"}
    with pytest.raises(RowError, match="`system` and the conversation both have a system message"):
        parse_row(row, LAYOUTS["demonstrations"])


def test_extra_keys_of_a_message_reach_the_template():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    group = parse_row({"prompt": [USER], "completion": [call]}, LAYOUTS["demonstrations"])
    assert group.completions == ((Message("assistant", "", {"tool_calls": [{"function": {"name": "f"}}]}),),)


@pytest.mark.parametrize(
    ("name", "role"),
    [("human", "user"), ("user", "user"), ("gpt", "assistant"), ("assistant", "assistant"), ("system", "system"),
     ("tool", "tool"), ("observation", "tool")],
)  # fmt: skip
def test_sharegpts_names_are_our_roles(name, role):
    row = {"prompt": [{"from": name, "value": "x"}]}
    assert parse_row(row, LAYOUTS["prompts"]).prompt == (Message(role, "x"),)


def test_transcripts_part_at_the_last_common_assistant_turn_even_if_the_replies_begin_alike():
    row = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: I am here",
        "rejected": "\n\nHuman: Hi\n\nAssistant: I am not\n\nHuman: Oh\n\nAssistant: Yes",
    }
    group = parse_row(row, LAYOUTS["implicit_comparisons"])
    assert group.prompt == "\n\nHuman: Hi\n\nAssistant:"
    assert group.completions == (" I am here", " I am not\n\nHuman: Oh\n\nAssistant: Yes")


def test_raw_text_parts_at_white_space():
    group = parse_row({"chosen": "The sky is blue", "rejected": "The sky is black"}, LAYOUTS["implicit_comparisons"])
    assert (group.prompt, *group.completions) == ("The sky is", " blue", " black")


def test_one_conversation_that_begins_with_the_whole_of_the_other_keeps_a_completion():
    row = {"chosen": [USER, YES], "rejected": [USER, YES, USER, NO]}
    group = parse_row(row, LAYOUTS["implicit_comparisons"])
    assert group.prompt == Q
    assert group.completions == (A, (*A, *Q, *B))


def test_ultrafeedback_rows_whose_prompt_repeats_the_first_turn():
    row = {"prompt": "Hi", "chosen": [USER, YES], "rejected": [USER, NO], "messages": [USER, YES], "score_chosen": 8.0}
    layout = detect_layout(row.keys())
    group = parse_row(row, layout)
    assert layout.name == "comparisons"
    assert (group.prompt, group.completions) == (Q, (A, B))
    assert group.columns == {"messages": [USER, YES], "score_chosen": 8.0}


@pytest.mark.parametrize(
    ("layout", "group", "lost"),
    [
        ("comparisons", PromptGroup(prompt="p", completions=("a", "b"), preference=Preference(ranking=(2, 1))), "rank"),
        ("demonstrations", PromptGroup(prompt="p", completions=("a",), preference=Preference(thumbs=(True,))), "pref"),
        ("prompts", PromptGroup(prompt="p", completions=("a",)), "completions"),
        ("messages", PromptGroup(prompt="p", completions=("a",)), "raw text"),
        ("demonstrations", PromptGroup(prompt="p", completions=("a",), columns={"weight": 2}), "preference|columns"),
        ("demonstrations", PromptGroup(prompt="p", completions=("a",), columns={"x": float("nan")}), "JSON"),
        ("demonstrations", PromptGroup(prompt="p"), "no completions"),
    ],
)
def test_writing_refuses_what_the_layout_would_lose(layout, group, lost):
    with pytest.raises(DataError, match=lost):
        write_row(group, LAYOUTS[layout])


def test_a_named_layout_decides_between_columns_that_fit_two(tmp_path):
    row = {"prompt": "p", "completion": "c", "label": True, "score": 3}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="more than one layout"):
        load_groups(tmp_path / "x.jsonl")
    dataset = load_groups(tmp_path / "x.jsonl", layout="ratings")
    assert dataset[0].preference == Preference(scores=(3.0,))
    assert dataset[0].columns == {"label": True}


def test_completions_without_a_judgement_are_read_only_to_be_judged(tmp_path):
    row = {"prompt": [USER], "completions": [[YES], [NO]], "topic": "x"}
    with pytest.raises(RowError, match="missing column `ranking`"):
        detect_layout(row)
    assert detect_layout(row, is_to_be_judged=True) == CANDIDATES
    group = parse_row(row, CANDIDATES)
    assert group == PromptGroup(prompt=Q, completions=(A, B), columns={"topic": "x"})
    assert write_row(group, CANDIDATES) == row
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="missing column"):
        load_groups(path)
    (found,) = load_groups(path, is_to_be_judged=True)
    assert (found.completions, found.preference) == ((A, B), None)
    for more, layout in (({"ranking": [1, 2]}, "rankings"), ({"labels": [True, False]}, "stepwise")):
        assert detect_layout({**row, **more}, is_to_be_judged=True).name == layout
