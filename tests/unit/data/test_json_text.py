"""A key that stands twice in an object is refused, wherever JSON is read."""

from __future__ import annotations

import json

import pytest

from assent.data import json_text
from assent.data.loading import load_groups
from assent.data.texts import RowError
from assent.errors import DataError

GOOD = '{"prompt": "p", "completion": "c"}'
TWICE = '{"prompt": "p", "completion": "c", "completion": "d"}'


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("x.jsonl", f"{GOOD}\n{TWICE}\n", r"x\.jsonl:2: the key 'completion' stands twice"),
        ("x.json", f"[{GOOD},\n{TWICE}]", r"x\.json:row 2: the key 'completion' stands twice"),
        ("x.json", f"{GOOD}\n{TWICE}\n", r"the key 'completion' stands twice"),
        (
            "x.jsonl",
            '{"messages": [{"role": "user", "content": "a", "content": "b"}, {"role": "assistant", "content": "c"}]}',
            r"x\.jsonl:1: the key 'content' stands twice",
        ),
        ("x.csv", 'prompt,chosen,rejected\n"[{""role"": ""user"", ""role"": ""user"", ""content"": ""a""}]",b,c\n',
         r"x\.csv:2: the key 'role' stands twice"),
        ("x.csv", 'prompt,completions,ranking\np,"[{""role"": ""assistant"", ""role"": ""user""}]",[1]\n',
         r"x\.csv:2: the key 'role' stands twice"),
    ],
)  # fmt: skip
def test_the_row_and_the_key_are_named(tmp_path, name, content, where):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=where):
        load_groups(tmp_path / name)


def test_the_other_rows_of_an_array_are_read(tmp_path):
    (tmp_path / "x.json").write_text(f"[{GOOD}, {TWICE}, {GOOD}]")
    dataset = load_groups(tmp_path / "x.json", lenient=True)
    assert [group.source[-5:] for group in dataset] == ["row 1", "row 3"]
    assert dataset.refused_by_reason() == {"a key twice": [f"{tmp_path / 'x.json'}:row 2"]}


def test_tools_as_a_string_of_json(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"messages": messages, "tools": '[{"name": "f", "name": "g"}]'}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="the key 'name' stands twice"):
        load_groups(tmp_path / "x.jsonl")


def test_raw_text_may_be_any_json(tmp_path):
    (tmp_path / "x.csv").write_text('prompt,completion\np,"{""a"": 1, ""a"": 2}"\n')
    assert load_groups(tmp_path / "x.csv")[0].completions == ('{"a": 1, "a": 2}',)


def test_other_json_is_read_as_json_reads_it():
    text = '{"a": [{"b": 1}, {"b": 2}], "c": null}'
    assert json_text.loads(text) == json_text.load_rows(text) == json.loads(text)
    with pytest.raises(RowError):
        json_text.loads('[{"a": {"b": 1, "b": 1}}]')
