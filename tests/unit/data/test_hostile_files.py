"""Files that were made to hang or to fill the memory: one error, which names the file and the line."""

from __future__ import annotations

import csv
import gzip
import json
import os
import tracemalloc

import datasets  # noqa: F401  (its import would count as memory)
import pyarrow.parquet  # noqa: F401
import pytest

from assent.data import readers
from assent.data.loading import load_groups
from assent.errors import DataError

DEMO = {"prompt": "p", "completion": "c"}
DEEP = "[" * 50_000 + "]" * 50_000


@pytest.fixture
def small_rows(monkeypatch):
    monkeypatch.setattr(readers, "MAX_ROW_BYTES", 100_000)


def peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.csv.gz", "array.json.gz", "x.parquet.gz"])
def test_zeros_that_were_packed_small_are_refused_before_they_fill_the_memory(tmp_path, small_rows, name):
    path = tmp_path / name
    with gzip.open(path, "wb") as file:
        file.write(b"[" if name.startswith("array") else b"")
        for _ in range(50):
            file.write(bytes(1_000_000))

    def load():
        with pytest.raises(DataError, match=r"x.*:1: the row is longer|too large to be read as a whole"):
            load_groups(path)

    assert peak(load) < 20_000_000


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_a_row_without_end_is_named_with_its_line(tmp_path, small_rows, name):
    path = tmp_path / name
    with path.open("w") as file:
        if name == "x.csv":
            file.write('prompt,completion\np,c\np,"')
            file.writelines("long\n" for _ in range(100_000))
        else:
            file.write(json.dumps(DEMO) + "\n" + json.dumps(DEMO | {"completion": "long " * 100_000}) + "\n")
    line = {"x.jsonl": "2", "x.csv": r"\d{5}"}[name]
    with pytest.raises(DataError, match=rf"{name}:{line}: the row is longer"):
        load_groups(path)


def test_a_long_row_within_the_bound_is_read(tmp_path):
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["prompt", "completion"], ["p", "line\r\nline\rline\n" * 50_000], ["q", "ä"]])
    groups = load_groups(path)
    assert groups[0].completions[0] == "line\r\nline\rline\n" * 50_000
    assert groups[1].completions[0] == "ä"


def test_a_json_file_with_one_object_on_each_line_is_still_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("\ufeff" + "\n".join(json.dumps(DEMO) for _ in range(3)), encoding="utf-8")
    assert len(load_groups(path)) == 3
    path.write_text("\ufeff \n[" + ",".join(json.dumps(DEMO) for _ in range(3)) + "]", encoding="utf-8")
    assert len(load_groups(path)) == 3


@pytest.mark.parametrize("column", ["messages", "tools", "ranking"])
@pytest.mark.parametrize("cell", [DEEP, "[" * 500 + "]" * 500, "9" * 5000], ids=["deep", "not so deep", "number"])
def test_a_cell_of_csv_that_is_too_deep_is_a_bad_row(tmp_path, column, cell):
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion", column], ["p", "c", cell]])
    with pytest.raises(DataError, match=rf"x\.csv:2: the cell `{column}` is nested too deeply"):
        load_groups(path)


def test_a_cell_of_brackets_is_text(tmp_path):
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion"], [DEEP, "c"]])
    assert load_groups(path)[0].prompt == DEEP


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_rows_that_are_nested_too_deeply_are_bad_rows(tmp_path, name):
    path = tmp_path / name
    row = json.dumps(DEMO)[:-1] + ', "tools": ' + "[" * 500 + "]" * 500 + "}"
    path.write_text(f"[{row}]" if name == "x.json" else row)
    with pytest.raises(DataError, match="nested too deeply"):
        load_groups(path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet", "x.json.gz"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_not_files(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is a pipe or a device"):
        load_groups(path)
