"""Law 12: what a row holds is trained on, refused, or reported."""

from __future__ import annotations

import json

import datasets
import pytest

from assent.data.auditing import audit
from assent.data.formats import LAYOUTS, parse_row
from assent.data.loading import load_groups
from assent.data.texts import RowError
from assent.data.unread import Census, in_rows, is_empty, repeats_prompt
from assent.errors import DataError
from assent.types import Message, PromptGroup

USER = {"role": "user", "content": "Hi"}
YES = {"role": "assistant", "content": "Yes"}
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}
DEMO = {"prompt": "Hi", "completion": "Yes"}
FILE = {"bytes": b"\x89PNG".hex(), "path": "cat.png"}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("images", ["cat.png"]),
        ("image", "cat.png"),
        ("image", FILE),
        ("videos", ["a.mp4"]),
        ("video_path", "a.mp4"),
        ("audio", {"path": "a.wav", "array": [0.1], "sampling_rate": 16000}),
        ("audios", ["a.wav"]),
        ("rejected_images", ["cat.png"]),
        ("pixel_values", [[0.1]]),
        ("illustration", [FILE]),
        ("illustration", {"path": "cat.JPG"}),
        ("parts", [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "cat.png"}}]),
    ],
)
def test_content_beside_the_text_is_refused_with_its_row(tmp_path, column, value):
    path = write(tmp_path / "x.jsonl", DEMO, DEMO | {column: value})
    with pytest.raises(DataError, match=rf"x\.jsonl:2: `{column}` holds content that is not text") as raised:
        load_groups(path)
    assert "remove such rows" in str(raised.value)
    assert load_groups(path, lenient=True).refused[0].reason == "pictures, films or sound"


@pytest.mark.parametrize("value", [None, [], "", [None], {"bytes": None, "path": None}])
def test_an_empty_content_column_is_no_content(value):
    assert parse_row(DEMO | {"images": value}, LAYOUTS["demonstrations"]).completions == ("Yes",)


@pytest.mark.parametrize(
    "column",
    [
        {"image_count": 2},
        {"has_image": True},
        {"image": False},
        {"topic": "images"},
        {"file": {"path": "a.md"}},
        {"meta": {"type": "video", "n": [1]}},
        {"meta": [{"type": ["a"], "url": "b"}]},
    ],
)
def test_facts_about_pictures_are_no_pictures(column):
    assert parse_row(DEMO | column, LAYOUTS["demonstrations"]).columns == column


@pytest.mark.parametrize("extra", [{"images": ["cat.png"]}, {"audio": {"id": "a1"}}])
def test_content_within_a_message_is_refused(extra):
    for messages in ([USER | extra, YES], [USER, YES | extra]):
        with pytest.raises(RowError, match=r"of a (user|assistant) message holds content that is not text"):
            parse_row({"messages": messages}, LAYOUTS["messages"])


@pytest.mark.parametrize(
    ("parts", "fix"),
    [
        ([{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "cat.png"}}], "remove"),
        ([{"type": "text", "text": "Hi"}], "as one string"),
    ],
)
def test_content_parts_are_refused_and_named(parts, fix):
    with pytest.raises(RowError, match="not text") as raised:
        parse_row({"messages": [{"role": "user", "content": parts}, YES]}, LAYOUTS["messages"])
    assert raised.value.got == f"parts: {', '.join(part['type'] for part in parts)}"
    assert raised.value.fix is not None
    assert fix in raised.value.fix


def test_pictures_in_a_table_are_refused_without_being_opened(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [DEMO | {"shown": {"bytes": None, "path": str(tmp_path / "broken.png")}}]
    table = datasets.Dataset.from_list(rows).cast_column("shown", datasets.Image())
    table.save_to_disk(str(tmp_path / "saved"))
    table.to_parquet(str(tmp_path / "x.parquet"))
    for name in ("saved", "x.parquet"):
        with pytest.raises(DataError, match=r"row 1: `shown` holds content that is not text"):
            load_groups(tmp_path / name)


@pytest.mark.parametrize(
    "column",
    [
        {"is_chosen": True},
        {"rejectedResponse": "No"},
        {"rejected_response": ["No", "Never"]},
        {"preferred": "b"},
        {"thumbs_up": 0},
        {"is_correct": False},
        {"feedback": "negative"},
        {"label": 0},
        {"labels": [True, False]},
        {"harmful": True},
        {"kto_tag": False, "rejected_response": "No"},
        {"passed": False},
        {"success": "no"},
        {"verdict": "reject"},
        {"quality": "poor"},
        {"flagged": True},
        {"unsafe": "yes"},
    ],
)
def test_a_judgement_that_nothing_reads_makes_no_demonstration(tmp_path, column):
    for row in ({"messages": [USER, YES]}, DEMO if "label" not in column else {"conversations": [HUMAN, GPT]}):
        path = write(tmp_path / "x.jsonl", row | column)
        with pytest.raises(DataError, match=r"x\.jsonl:1: .*looks like a judgement.*") as raised:
            load_groups(path)
        assert "rename or drop it" in str(raised.value)


@pytest.mark.parametrize(
    "column",
    [
        {"label": "maths"},
        {"is_correct": True},
        {"score": 0.2},
        {"harmful": False},
        {"rejected_response": None},
        {"rating": 4},
        {"source": "chosen"},
        {"passed": True},
        {"quality": "good"},
        {"flagged": False},
    ],
)
def test_a_column_that_speaks_against_no_answer_stays_with_the_row(column):
    assert parse_row({"messages": [USER, YES]} | column, LAYOUTS["messages"]).columns == column


def test_a_prompt_and_a_comparison_may_have_such_columns():
    assert parse_row({"prompt": "Hi", "is_correct": False}, LAYOUTS["prompts"]).columns == {"is_correct": False}
    row = {"prompt": "Hi", "chosen": "Yes", "rejected": "No", "chosen_model": "a", "rejected_model": "b"}
    assert set(parse_row(row, LAYOUTS["comparisons"]).columns) == {"chosen_model", "rejected_model"}


@pytest.mark.parametrize("key", [
    {"loss": False}, {"weight": 0}, {"train": False}, {"loss": 0.0}, {"weight": "0"}, {"loss": "False"},
    {"train_on_turn": False}, {"mask": True}, {"masked": 1}, {"ignore": "true"},
])  # fmt: skip
def test_a_turn_that_is_not_to_be_trained_on_is_refused(key):
    with pytest.raises(RowError, match="is not to be trained on"):
        parse_row({"messages": [USER, YES | key, USER, YES]}, LAYOUTS["messages"])
    row = {"prompt": [USER, YES | key, USER], "completion": [YES]}  # the remedy: turns of the prompt are not trained on
    assert len(parse_row(row, LAYOUTS["demonstrations"]).prompt) == 3


@pytest.mark.parametrize("value", [None, "", " \n", [], {}, [None, ""], {"a": [None]}, float("nan")])
def test_empty_values(value):
    assert is_empty(value)
    assert not any(is_empty(full) for full in (0, False, "x", [0], {"a": "x"}))


def test_values_as_deep_as_json_is_read(tmp_path):
    deep = "[" * 90 + "]" * 90
    path = write(tmp_path / "x.jsonl", f'{{"prompt": "p", "completion": "c", "meta": {deep}, "label_list": [{deep}]}}')
    assert Census(load_groups(path)).columns == {}


def test_the_census_counts_columns_and_keys_that_are_not_empty():
    call = Message("assistant", "", {"tool_calls": [{"name": "f"}], "name": None})
    groups = [
        PromptGroup(prompt=(Message("user", "Hi"),), completions=((call,), (call,)), columns={"id": 1, "note": ""}),
        PromptGroup(
            prompt=(Message("user", "Hi"),), completions=((call,),), columns={"id": 2, "note": "n", "meta": {}}
        ),
    ]
    census = Census(groups)
    assert census.columns == {"id": 2, "note": 1}
    assert census.keys == {"tool_calls": 2}
    assert in_rows({"note": 1, "meta": 20, "id": 20}) == "id, meta (20 rows each), note (1 row)"


def test_data_check_shows_the_census_and_it_is_no_finding(tmp_path):
    rows = [
        {"messages": [USER | {"name": "ann"}, YES | {"content": f"Yes {n}"}], "id": n, "meta": {"a": 1}, "note": None}
        for n in range(20)
    ]
    result = audit(load_groups(write(tmp_path / "x.jsonl", *rows)))
    assert "not read              id, meta (20 rows each)" in result.lines()
    assert any(line.startswith("keys of messages      name (20 rows)") for line in result.lines())
    assert result.as_dict()["unread_columns"] == {"id": 20, "meta": 20}
    many = [{"messages": [USER, YES]} | {f"column_{n}": n for n in range(30)}]
    assert max(map(len, audit(load_groups(write(tmp_path / "y.jsonl", *many))).lines())) <= 80


LONG = "What is two and two?"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": LONG, "chosen": LONG + " Four.", "rejected": f"\n{LONG} Five."},
        {"prompt": LONG, "completion": LONG + " Four."},
        {"prompt": LONG, "completion": LONG + " Five.", "label": False},
        {"prompt": LONG, "completions": [LONG + " 4", LONG + " 5", LONG + " 6"], "ranking": [1, 2, 2]},
    ],
)
def test_completions_that_repeat_the_prompt_are_a_finding(tmp_path, row):
    other = {name: "Two and one?" if name == "prompt" else value for name, value in row.items()}
    result = audit(load_groups(write(tmp_path / "x.jsonl", row, row | {"id": 1}, other)))
    assert result.repeated_prompt is not None
    assert "stands twice" in result.repeated_prompt
    assert "2 of 3 rows" in result.repeated_prompt


@pytest.mark.parametrize(
    ("prompt", "completions"),
    [
        (LONG, ("Four.", "Five.")),
        (LONG, (LONG + " Four.", "Five.")),  # one answer that says the question again
        ("A", ("Apple", "Avocado")),
        ((Message("user", LONG),), ((Message("assistant", LONG + " Four."),),)),
    ],
)
def test_what_does_not_repeat_its_prompt(prompt, completions):
    assert not repeats_prompt(PromptGroup(prompt=prompt, completions=completions))


@pytest.mark.parametrize(
    "key", [{"weight": 1}, {"loss": True}, {"mask": False}, {"ignore": 0}, {"train_on_turn": "yes"}]
)
def test_a_turn_that_is_to_be_trained_on_is_kept(key):
    assert parse_row({"messages": [USER, YES | key]}, LAYOUTS["messages"]).completions


@pytest.mark.parametrize("extra", [{"refusal": "I cannot"}, {"text": "Yes"}, {"name": "bot"}, {"tool_calls": []}])
@pytest.mark.parametrize("content", [None, "", " "])
def test_a_turn_without_content_is_empty_whatever_else_it_holds(extra, content):
    with pytest.raises(RowError, match="is empty"):
        parse_row({"messages": [USER, {"role": "assistant", "content": content, **extra}]}, LAYOUTS["messages"])


@pytest.mark.parametrize("key", ["tool_calls", "function_call", "reasoning_content"])
def test_a_turn_that_calls_a_tool_or_reasons_needs_no_content(key):
    turn = {"role": "assistant", "content": None, key: [{"name": "f", "arguments": {}}]}
    assert parse_row({"messages": [USER, turn]}, LAYOUTS["messages"]).completions


@pytest.mark.parametrize("spelled", [repr([YES]), json.dumps([YES]), " [ {'from': 'gpt', 'value': 'Yes'}]"])
def test_messages_that_are_written_as_text_are_not_read_as_raw_text(tmp_path, spelled):
    with pytest.raises(RowError, match="spells a list of messages"):
        parse_row({"prompt": "Hi", "completion": spelled}, LAYOUTS["demonstrations"])
    (tmp_path / "x.csv").write_text('prompt,chosen,rejected\nHi,"' + repr([YES]) + '",No\n')
    with pytest.raises(DataError, match=r"x\.csv:2: `chosen` is one string that spells"):
        load_groups(tmp_path / "x.csv")
