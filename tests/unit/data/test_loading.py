"""Every kind of file, gzipped or not, folders and hub names give the same groups."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import subprocess
import sys
import time

import datasets
import huggingface_hub
import pytest

from assent.data.loading import Dataset, load_groups, write_groups
from assent.errors import DataError, DataFileNotFoundError, UsageError
from assent.types import Message, PromptGroup

ROWS = [
    {
        "prompt": [{"role": "user", "content": f'Question, "{i}"\nplease'}],
        "chosen": [{"role": "assistant", "content": f"Good {i}"}],
        "rejected": [{"role": "assistant", "content": "Bad"} | ({"name": "b"} if i else {})],
        "margin": 0.5 * i,
        "topic": "é",
    }
    for i in range(3)
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def as_jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_csv() -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(ROWS[0])
    for row in ROWS:
        writer.writerow([value if isinstance(value, str) else json.dumps(value) for value in row.values()])
    return out.getvalue().encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    datasets.Dataset.from_list(ROWS).to_parquet(out)
    return out.getvalue()


WRITERS = {
    "x.jsonl": as_jsonl,
    "x.ndjson": lambda: b"\xef\xbb\xbf" + as_jsonl(),
    "x.json": lambda: json.dumps(ROWS, indent=1).encode(),
    "lines.json": as_jsonl,
    "x.csv": as_csv,
    "x.parquet": as_parquet,
}


def anonymous(groups):
    return [dataclasses.replace(group, source="") for group in groups]


def expected(tmp_path):
    (tmp_path / "expected.jsonl").write_bytes(as_jsonl())
    return anonymous(load_groups(tmp_path / "expected.jsonl"))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_of_file_gives_the_same_groups(tmp_path, name, packed):
    data = WRITERS[name]()
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    dataset = load_groups(path)
    assert anonymous(dataset) == expected(tmp_path)
    assert (len(dataset), dataset.layout, dataset.path) == (3, "comparisons", str(path))
    if not name.endswith("parquet"):
        assert dataset.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_dataset_is_a_sequence(tmp_path, name):
    (tmp_path / name).write_bytes(WRITERS[name]())
    dataset = load_groups(tmp_path / name)
    assert isinstance(dataset, Dataset)
    assert dataset[-1] == list(dataset)[2]
    assert dataset[1:] == list(dataset)[1:]
    with pytest.raises(IndexError):
        dataset[3]


def test_sources_name_lines_where_there_are_lines(tmp_path):
    for name, first in {"x.jsonl": ":1", "x.csv": ":2", "x.json": ":row 1", "x.parquet": ":row 1"}.items():
        (tmp_path / name).write_bytes(WRITERS[name]())
        assert load_groups(tmp_path / name)[0].source == f"{tmp_path / name}{first}"


def test_parquet_rows_are_checked_when_loaded_and_refused_ones_skipped(tmp_path):
    same = {"prompt": "p", "chosen": "a", "rejected": "a"}
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    datasets.Dataset.from_list([same, good, same, good]).to_parquet(tmp_path / "x.parquet")
    dataset = load_groups(tmp_path / "x.parquet")
    assert [group.source[-1] for group in dataset] == ["2", "4"]
    assert len(dataset.refused) == 2
    datasets.Dataset.from_list([good, good | {"rejected": ""}]).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(DataError, match=r"y\.parquet:row 2: `rejected` is empty"):
        load_groups(tmp_path / "y.parquet")


def test_a_csv_cell_may_be_longer_than_python_reads_by_itself(tmp_path):
    (tmp_path / "x.csv").write_text(f"prompt,completion\np,{'word ' * 100_000}\n")
    assert len(load_groups(tmp_path / "x.csv")[0].completions[0]) == 500_000


def test_a_csv_cell_of_brackets_stays_text(tmp_path):
    (tmp_path / "x.csv").write_text('prompt,completion,label\n"[1, 2]","{""a"": 1}",true\n')
    group = load_groups(tmp_path / "x.csv")[0]
    assert (group.prompt, group.completions) == ("[1, 2]", ('{"a": 1}',))
    assert group.preference.thumbs == (True,)


def test_folder_of_files_splits_by_name(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    lines = as_jsonl().splitlines(keepends=True)
    (folder / "train-00000.jsonl").write_bytes(lines[0])
    (folder / "train-00001.jsonl.gz").write_bytes(gzip.compress(lines[1]))
    (folder / "test.jsonl").write_bytes(lines[2])
    (folder / "README.md").write_text("notes")
    assert anonymous(load_groups(folder)) == expected(tmp_path)[:2]
    assert anonymous(load_groups(folder, split="test")) == expected(tmp_path)[2:]
    with pytest.raises(DataError, match="has no split 'dev'"):
        load_groups(folder, split="dev")


def test_a_folder_without_data_is_an_error(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"has no data files(.|\n)*notes\.md"):
        load_groups(tmp_path / "d")


def test_what_datasets_saved_is_read_and_hashed_by_its_rows(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table.select([2])).save_to_disk(tmp_path / "two")
    one = load_groups(tmp_path / "one")
    assert anonymous(one) == expected(tmp_path)
    assert anonymous(load_groups(tmp_path / "two", split="test")) == expected(tmp_path)[2:]
    assert one.sha256 == load_groups(tmp_path / "two", split="train").sha256, "the hash is of the rows"
    assert one.sha256 != load_groups(tmp_path / "two", split="test").sha256
    with pytest.raises(UsageError, match="has no splits"):
        load_groups(tmp_path / "one", split="train")


def test_a_hub_name_without_a_network_is_one_quick_error(monkeypatch):
    seen = []

    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    def load_dataset(*args, **kwargs):
        seen.append((datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE))
        raise ConnectionError("not in the cache")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(DataError, match=r"no file or folder 'owner/name' here, and the hub(.|\n)*Name or service"):
        load_groups("owner/name")
    assert seen == [(True, True)], "the cache is tried, without the minutes of retries of a library that expects a net"
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_hub_dataset_is_read_at_its_split_and_revision(tmp_path, monkeypatch):
    table = datasets.Dataset.from_list(ROWS)
    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **kwargs: asked.append(kwargs["revision"]))
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, subset, revision, trust_remote_code: datasets.DatasetDict(a=table.select([0]), b=table),
    )
    dataset = load_groups("owner/name", split="b", revision="v1")
    assert asked == ["v1"]
    assert anonymous(dataset) == expected(tmp_path)
    assert dataset[1].source == "owner/name[b]:row 2"
    with pytest.raises(DataError, match=r"several splits(.|\n)*a, b"):
        load_groups("owner/name")


def test_the_same_groups_give_the_same_bytes_at_any_time_and_under_any_name(tmp_path, monkeypatch):
    groups = [PromptGroup(prompt=(Message("user", "é"),), columns={"n": 1})]
    write_groups(tmp_path / "a.jsonl.gz", groups, "prompts")
    monkeypatch.setattr(time, "time", lambda: 1e9)
    write_groups(tmp_path / "b.jsonl.gz", groups, "prompts")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert "é" in gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode()


def test_reading_and_auditing_import_no_torch(tmp_path):
    (tmp_path / "x.parquet").write_bytes(as_parquet())
    code = (
        "import sys; from assent.data import auditing, loading, splitting;"
        "auditing.audit(loading.load_groups(sys.argv[1])).lines();"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.parquet")],
        capture_output=True,
        text=True,
        check=True,
        env={"HF_DATASETS_CACHE": str(tmp_path / "c"), "HOME": str(tmp_path)},
    )
    assert run.stdout.strip() == "[]"


def test_a_subset_of_a_hub_dataset_is_named_behind_a_colon(tmp_path, monkeypatch):
    """The library's own loading, of a local repository: `main` and `socratic` are configurations of its card."""
    home = tmp_path / "repository"
    for number, name in enumerate(("main", "socratic")):
        (home / name).mkdir(parents=True)
        (home / name / "train.jsonl").write_text(json.dumps(ROWS[number]) + "\n")
    files = "".join(f"- config_name: {name}\n  data_files: {name}/*.jsonl\n" for name in ("main", "socratic"))
    (home / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **kwargs: None)
    real = datasets.load_dataset

    def load_dataset(name, subset, *, revision, trust_remote_code):
        assert name == "owner/name"
        return real(str(home), subset, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    dataset = load_groups("owner/name:socratic")
    assert anonymous(dataset) == expected(tmp_path)[1:2]
    assert dataset[0].source == "owner/name:socratic:row 1"
    for wrong in ("owner/name", "owner/name:sokratic"):
        with pytest.raises(DataError, match=r"socratic(.|\n)*owner/name:SUBSET"):
            load_groups(wrong)
    for no_name in ("pairs.jsonl:3", "owner/name:"):
        with pytest.raises(DataFileNotFoundError, match="there is no file"):
            load_groups(no_name)
