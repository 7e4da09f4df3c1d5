"""Bad data: one clear error that names the file and the line, and nothing dropped without a word."""

from __future__ import annotations

import errno
import gzip
import json

import pytest

from assent.data.loading import load_groups, write_groups
from assent.errors import DataError, DataFileNotFoundError, StorageError, UsageError
from assent.types import PromptGroup

GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
SAME = {"prompt": "p", "chosen": "a", "rejected": "a"}
DEMO = {"prompt": "p", "completion": "c"}
USER = {"role": "user", "content": "Hi"}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


BAD_ROWS = {
    "broken JSON": ([DEMO, '{"prompt": "a", oops'], r"x\.jsonl:2: broken JSON.*column 17"),
    "a blank line still counts": (["", DEMO, "", "{"], r"x\.jsonl:4: broken JSON"),
    "not an object": ([DEMO, "[1]"], r"x\.jsonl:2: the row is not a JSON object"),
    "empty completion": ([DEMO, DEMO | {"completion": ""}], r"x\.jsonl:2: `completion` is empty"),
    "blank completion": ([DEMO | {"completion": " \n"}], r"x\.jsonl:1: `completion` is empty"),
    "null completion": ([DEMO | {"completion": None}], r"x\.jsonl:1: `completion` is empty"),
    "no message": ([{"prompt": [USER], "completion": []}], r":1: `completion` is empty"),
    "empty message": (
        [{"prompt": [USER], "completion": [{"role": "assistant", "content": ""}]}],
        ":1: `completion` is empty",
    ),
    "completion is a number": ([DEMO, DEMO | {"completion": 3}], r":2: `completion` is not text(.|\n)*int 3"),
    "content is a number": ([{"prompt": [{"role": "user", "content": 1}], "completion": [USER]}], "is not text"),
    "a number beyond all floats": (
        ['{"prompt": "p", "completion": "c", "weight": 1' + "0" * 400 + "}"],
        "`weight` is not",
    ),
    "a number of 5000 digits": (
        ['{"prompt": "p", "completion": "c", "weight": 1' + "0" * 5000 + "}"],
        "integer of more than",
    ),
    "half a surrogate pair": (['{"prompt": "p", "completion": "\\ud800"}'], "surrogate"),
    "empty prompt": ([DEMO | {"prompt": ""}], ":1: `prompt` is empty"),
    "completion of another kind": ([DEMO | {"prompt": [USER]}], "a list of messages, but `completion` is a plain"),
    "completion begins with the user": ([{"prompt": [USER], "completion": [USER]}], "begins with a user turn"),
    "no assistant turn": ([{"messages": [USER]}], "no assistant turn"),
    "assistant turn first": ([{"messages": [{"role": "assistant", "content": "x"}]}], "before the first assistant"),
    "unknown role": (
        [{"prompt": [{"role": "usr", "content": "x"}]}],
        r"unknown role in `prompt` \(did you mean 'user'",
    ),
    "another layout": ([GOOD, DEMO], r"x\.jsonl:2: this row's layout differs from the first row's \(.*x\.jsonl:1\)"),
    "a missing column later": ([GOOD, {"prompt": "p", "chosen": "a"}], r"x\.jsonl:2: missing column `rejected`"),
    "ranks from 0": ([{"prompt": "p", "completions": ["a", "b"], "ranking": [0, 1]}], "count from 1"),
    "ranks without a best": ([{"prompt": "p", "completions": ["a", "b"], "ranking": [2, 3]}], "1 is best"),
    "too few ranks": ([{"prompt": "p", "completions": ["a", "b"], "ranking": [1]}], "1 entries for 2 completions"),
    "a score that is NaN": (['{"prompt": "p", "completions": ["a"], "scores": [NaN]}'], "`scores` is not usable"),
    "a label in words": ([DEMO | {"label": "good"}], r"`label` is not usable(.|\n)*true \(desirable\)"),
    "a probability above one": ([GOOD | {"chosen_probability": 1.1}], r"probability in \[0, 1\]"),
    "a negative weight": ([GOOD | {"weight": -1}], "`weight` is not usable"),
    "a weight that float32 rounds to 0": ([GOOD | {"weight": 1e-46}], "`weight` is not usable"),
    "a weight that float32 does not hold": ([GOOD | {"weight": 1e39}], "`weight` is not usable"),
    "a positive log-probability": ([GOOD | {"chosen_logps": 3.0, "rejected_logps": -1.0}], "`chosen_logps`"),
    "half of the log-probabilities": ([GOOD | {"chosen_logps": -3.0}], "only one of"),
    "fewer labels than steps": ([{"prompt": "p", "completions": ["a", "b"], "labels": [True]}], "for 2 steps"),
    "no common prompt": ([{"chosen": "ab", "rejected": "cd"}], "no common beginning"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_an_error_with_its_line(tmp_path, name):
    rows, message = BAD_ROWS[name]
    with pytest.raises(DataError, match=message) as raised:
        load_groups(write(tmp_path / "x.jsonl", *rows))
    assert raised.value.exit_status == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("prompt", "chosen", "rejcted"), r"missing column `rejected` \(is `rejcted` meant\?\)"),
        (("prompt", "chosen"), "missing column `rejected` for the layout comparisons"),
        (("prompt", "completions"), "missing column `ranking`"),
        (("prompt", "completon"), r"missing column `completion` \(is `completon` meant\?\)"),
        (("Prompt", "Completion"), r"`prompt` \(is `Prompt` meant\?\), `completion` \(is `Completion` meant\?\)"),
        (("foo", "bar"), "the columns fit no layout"),
    ],
)
def test_a_missing_column_names_columns_found_and_layouts_accepted(tmp_path, columns, message):
    with pytest.raises(DataError, match=message) as raised:
        load_groups(write(tmp_path / "x.jsonl", dict.fromkeys(columns, "text")))
    assert str(raised.value.got) == "columns " + ", ".join(sorted(columns))
    assert "prompt, completions, ranking" in str(raised.value.expected)


def test_a_missing_file_names_its_neighbour(tmp_path):
    write(tmp_path / "train.jsonl", DEMO)
    with pytest.raises(DataFileNotFoundError, match=r"did you mean .*train\.jsonl"):
        load_groups(tmp_path / "trian.jsonl")


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    with pytest.raises(DataError, match="has no rows"):
        load_groups(tmp_path / name)


def test_identical_pairs_are_refused_and_counted_among_good_ones(tmp_path):
    dataset = load_groups(write(tmp_path / "x.jsonl", SAME, GOOD, SAME))
    assert [group.source for group in dataset] == [f"{tmp_path}/x.jsonl:2"]
    assert [row.source.rsplit(":")[-1] for row in dataset.refused] == ["1", "3"]
    assert list(dataset.refused_by_reason()) == ["chosen and rejected are identical"]


def test_identical_pairs_in_every_row_are_an_error(tmp_path):
    with pytest.raises(DataError, match=r"identical in every row \(2 rows\)"):
        load_groups(write(tmp_path / "x.jsonl", SAME, SAME))


def test_lenient_loading_lists_every_bad_row_with_its_reason(tmp_path):
    path = write(tmp_path / "x.jsonl", GOOD, "{", GOOD | {"chosen": ""}, SAME, DEMO, GOOD)
    dataset = load_groups(path, lenient=True)
    assert len(dataset) == 2
    assert [(row.source.rsplit(":")[-1], row.reason) for row in dataset.refused] == [
        ("2", "broken JSON"),
        ("3", "empty completion"),
        ("4", "chosen and rejected are identical"),
        ("5", "another layout"),
    ]


def test_lenient_loading_of_nothing_but_bad_rows_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no row can be used: empty completion \(2\)"):
        load_groups(write(tmp_path / "x.jsonl", *[DEMO | {"completion": ""}] * 2), lenient=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b'[{"prompt": "p", "completion": "c"},\n oops]', r"x\.json:2: broken JSON"),
        ("x.jsonl", '{"prompt": "é"}'.encode("latin-1"), r"x\.jsonl:1: not UTF-8"),
        ("x.csv", b"prompt,completion\np,c\np\n", r"x\.csv:3: 1 cells under 2 columns"),
        ("x.csv", b'prompt,completion\n"two\nlines",c\np,\n', r"x\.csv:4: `completion` is empty"),
        ("x.csv", b"prompt,completions,ranking\np,[1,[]\n", r"x\.csv:2: .*not JSON"),
        ("x.jsonl.gz", b"plain", "cannot be unpacked"),
        ("x.jsonl.gz", gzip.compress(b'{"prompt": "p"}\n' * 99, mtime=0)[:-20], "cannot be unpacked"),
        ("x.parquet", b"PAR1", "not a readable Parquet file"),
        ("x.tsv", b"", "has an unknown format"),
    ],
)
def test_a_broken_file_is_one_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_groups(tmp_path / name)


def test_split_and_revision_have_no_meaning_for_one_file(tmp_path):
    path = write(tmp_path / "x.jsonl", DEMO)
    with pytest.raises(UsageError, match="`split` applies to"):
        load_groups(path, split="train")
    with pytest.raises(UsageError, match="`revision` applies to"):
        load_groups(path, revision="main")


def test_an_unknown_layout_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'demonstrations'"):
        load_groups("x.jsonl", layout="demonstration")


def test_no_name_at_all_does_not_mean_the_current_folder():
    with pytest.raises(UsageError, match="the name of the data is empty"):
        load_groups("")


def test_a_full_disk_is_a_storage_error_and_leaves_the_old_file(tmp_path, monkeypatch):
    group = PromptGroup(prompt="p", completions=("c",))
    write_groups(tmp_path / "x.jsonl", [group], "demonstrations")
    before = (tmp_path / "x.jsonl").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left") as raised:
        write_groups(tmp_path / "x.jsonl", [group, group], "demonstrations")
    assert raised.value.exit_status == 3
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x.jsonl", before)]


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    groups = [PromptGroup(prompt="p", completions=("c",)), PromptGroup(prompt="p", completions=("",))]
    with pytest.raises(DataError, match="is empty"):
        write_groups(tmp_path / "x.jsonl", groups, "demonstrations")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataFileNotFoundError, match="no folder"):
        write_groups(tmp_path / "no" / "x.jsonl", groups, "demonstrations")
    with pytest.raises(UsageError, match="cannot write"):
        write_groups(tmp_path / "x.csv", groups, "demonstrations")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "[" * 100_000, "nested too deeply"),
        ("x.json", '[{"prompt": 1' + "0" * 5000 + "}]", "an integer of more than"),
        ("x.csv", "prompt,chosen,chosen,rejected\na,b,c,d\n", "column 'chosen' appears twice"),
    ],
)
def test_a_file_that_python_cannot_hold_or_that_says_two_things(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_groups(tmp_path / name)


def test_a_name_that_is_longer_than_any_path():
    with pytest.raises(DataError):
        load_groups("x" * 5000 + ".jsonl")
