"""Files that were made to hang or to fill the memory: one error, which names the file and the line."""

from __future__ import annotations

import csv
import gzip
import json
import os
import tracemalloc

import datasets  # imported here: its import would count as memory
import pyarrow.parquet
import pytest

from assent.data import readers, texts
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
        with pytest.raises(DataError, match=r"x.*:1: the row is longer|unpacks to far more than text"):
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


@pytest.mark.parametrize("line", [b"\n", b"{}\n"])
def test_packed_lines_that_unpack_as_no_text_does_are_refused(tmp_path, monkeypatch, line):
    monkeypatch.setattr(readers, "FREE_BYTES", 10_000)
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(DEMO).encode() + b"\n" + line * 200_000))
    with pytest.raises(DataError, match="unpacks to far more than text does"):
        load_groups(path, lenient=True)


@pytest.mark.parametrize("column", ["tools", "chat_template_kwargs"])
@pytest.mark.parametrize("cell", [DEEP, "9" * 5000], ids=["deep", "number"])
def test_json_in_a_string_that_is_too_deep_is_a_bad_row(tmp_path, column, cell):
    path = tmp_path / "x.jsonl"
    turns = {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]}
    path.write_text(json.dumps(turns | {column: cell}))
    with pytest.raises(DataError, match=rf"x\.jsonl:1: `{column}` is nested too deeply"):
        load_groups(path)


def test_a_rank_beyond_all_numbers_is_a_bad_row(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "p", "completions": ["a", "b"], "ranking": [1, ' + "9" * 400 + "]}")
    with pytest.raises(DataError, match=r"x\.jsonl:1: `ranking` is not usable"):
        load_groups(path)


def test_many_columns_and_many_bad_rows_are_told_shortly(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    names = [f"c{number}" for number in range(20_000)]
    path.write_text(",".join(names) + "\n" + ",".join("a" for _ in names))
    with pytest.raises(DataError, match="the columns fit no layout") as raised:
        load_groups(path)
    assert len(str(raised.value)) < 2000
    asked = []
    monkeypatch.setattr(texts, "nearest", lambda *_, **__: asked.append(1))
    (tmp_path / "y.jsonl").write_text('{"z": 1}\n' * 100)
    with pytest.raises(DataError, match=r"missing column \(100\)"):
        load_groups(tmp_path / "y.jsonl", lenient=True)
    assert len(asked) < 100  # likely misspellings are looked for once, not for each row


def parquet(path, columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_that_cannot_be_read_is_named(tmp_path):
    path = parquet(tmp_path / "footer.parquet", {"prompt": ["p"], "completion": ["c"]})
    whole = path.read_bytes()
    path.write_bytes(whole[:-60] + bytes(255 - byte for byte in whole[-60:-30]) + whole[-30:])
    with pytest.raises(DataError, match=r"footer\.parquet is not a readable Parquet file"):
        load_groups(path)
    kinds = {"map": pyarrow.array([[("k", "v")]], pyarrow.map_(pyarrow.string(), pyarrow.string()))}
    with pytest.raises(DataError, match=r"map\.parquet cannot be read as one table.*map<string, string"):
        load_groups(parquet(tmp_path / "map.parquet", {"prompt": ["p"], "completion": ["c"]} | kinds))
    none = pyarrow.array([], pyarrow.string())
    with pytest.raises(DataError, match=r"^\S*none\.parquet has no rows"):
        load_groups(parquet(tmp_path / "none.parquet", {"prompt": none, "completion": none}))


def test_parquet_that_unpacks_to_far_more_is_not_read(tmp_path, small_rows, monkeypatch):
    path = parquet(tmp_path / "x.parquet", {"prompt": ["a" * 5_000_000], "completion": ["c"]})
    monkeypatch.setattr(datasets.Dataset, "from_parquet", lambda *_: pytest.fail("it is read"))
    with pytest.raises(DataError, match="its rows are longer"):
        load_groups(path)


@pytest.mark.parametrize("fault", ["outside", "absolute", "pipe", "data pipe", "list", "deep"])
def test_a_folder_that_datasets_saved_names_ordinary_files_of_its_own(tmp_path, fault):
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"prompt": ["p"], "completion": ["c"]}).save_to_disk(folder)
    assert load_groups(folder)[0].prompt == "p"
    state, data = folder / "state.json", next(folder.glob("*.arrow"))
    named = {"outside": "../saved/" + data.name, "absolute": "/dev/zero", "pipe": "pipe.arrow"}
    if fault in named:
        state.write_text(json.dumps(json.loads(state.read_text()) | {"_data_files": [{"filename": named[fault]}]}))
    elif fault == "data pipe":
        data.unlink()
        os.mkfifo(data)
    else:
        state.write_text("[]" if fault == "list" else DEEP)
    if fault == "pipe":
        os.mkfifo(folder / "pipe.arrow")
    with pytest.raises(DataError, match=r"outside its folder|is a pipe or a device|does not name the files"):
        load_groups(folder)


@pytest.mark.parametrize("kind", ["pipe", "link to nothing"])
def test_a_file_of_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, kind):
    (tmp_path / "a.jsonl").write_text(json.dumps(DEMO))
    if kind == "pipe":
        os.mkfifo(tmp_path / "b.jsonl")
    else:
        (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"b\.jsonl is a (pipe|link to a file that is not there)"):
        load_groups(tmp_path)
