"""A large file of lines: the groups are those of a small one, read again row by row."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assent.data import line_groups
from assent.data.line_groups import LineGroups
from assent.data.loading import load_groups
from assent.errors import DataError

LINES = (
    '\ufeff{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    "\n"
    '{"prompt": "ä", "chosen": "same", "rejected": "same"}\r\n'
    '{"prompt": "ö\\n", "chosen": "d", "rejected": "e", "page": 3}\n'
    '{"prompt": "z", "chosen": "f", "rejected": "g"}'
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(LINES.encode())
    return path


def test_rows_that_are_read_again_are_those_in_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = load_groups(file)
    monkeypatch.setattr(line_groups, "LARGE_BYTES", 1)
    large = load_groups(file)
    assert isinstance(large._groups, LineGroups)
    assert not isinstance(small._groups, LineGroups)
    assert list(large) == list(small)
    assert [group.source.rpartition(":")[2] for group in large] == ["1", "4", "5"]
    assert (large.sha256, large.layout, large.refused) == (small.sha256, small.layout, small.refused)
    assert large[-1] == small[-1]
    assert large[1:] == small[1:]
    assert sum(memoryview(kept).nbytes for kept in (large._groups._starts, large._groups._numbers)) == 16 * len(large)


def test_a_file_that_has_changed_since_is_an_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_groups, "LARGE_BYTES", 1)
    large = load_groups(file)
    os.utime(file, ns=(1, 1))
    with pytest.raises(DataError, match=r"pairs\.jsonl:4 is not the row that was read before"):
        large[1]


def test_packed_files_and_folders_of_files_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_groups, "LARGE_BYTES", 1)
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(LINES.encode())
    assert len(load_groups(tmp_path)) == 6
