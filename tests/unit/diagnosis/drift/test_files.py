"""Each line of a log is read once: files that grow, are rotated, gzipped, copied and emptied, cut or damaged."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from assent.diagnosis.drift import files
from assent.diagnosis.drift.files import Place, files_of, rows_of
from assent.errors import DataError, DataFileNotFoundError


def lines(*numbers: int) -> str:
    return "".join(json.dumps({"n": number}) + "\n" for number in numbers)


def read(folder: Path, places: dict[str, Place]) -> list[Any]:
    return [row if row is None or isinstance(row, str) else row["n"] for file in files_of(folder)
            for row in rows_of(file, places)]  # fmt: skip


def test_a_file_that_grows_and_is_rotated_is_read_once(tmp_path: Path) -> None:
    places: dict[str, Place] = {}
    log = tmp_path / "app.jsonl"
    log.write_text(lines(1, 2))
    assert read(tmp_path, places) == [1, 2]
    assert read(tmp_path, places) == []
    log.write_text(lines(1, 2, 3))
    log.rename(tmp_path / "app.jsonl.1")
    log.write_text(lines(4))
    assert read(tmp_path, places) == [4, 3]
    (tmp_path / "app.jsonl.2.gz").write_bytes(gzip.compress((tmp_path / "app.jsonl.1").read_bytes()))
    (tmp_path / "app.jsonl.1").unlink()
    assert read(tmp_path, places) == []


def test_a_file_that_was_copied_and_emptied_is_read_from_its_start(tmp_path: Path) -> None:
    places: dict[str, Place] = {}
    log = tmp_path / "app.jsonl"
    log.write_text(lines(1, 2, 3))
    assert read(tmp_path, places) == [1, 2, 3]
    log.write_text(lines(1, 9))  # the same first line, another content
    assert read(tmp_path, places) == [1, 9]


def test_files_that_begin_alike_are_several(tmp_path: Path) -> None:
    places: dict[str, Place] = {}
    for name, number in (("a.jsonl", 2), ("b.jsonl", 3)):
        (tmp_path / name).write_text(lines(1, number))
    assert read(tmp_path, places) == [1, 2, 1, 3]
    assert read(tmp_path, places) == []
    (tmp_path / "a.jsonl").write_text(lines(1, 2, 4))
    assert read(tmp_path, places) == [4]
    assert len(places) == 2


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    places: dict[str, Place] = {}
    log = tmp_path / "app.jsonl"
    log.write_text(lines(1) + '{"n": 2')
    assert read(tmp_path, places) == [1]
    log.write_text(lines(1) + '{"n": 2}')  # whole, though its newline is still to come
    assert read(tmp_path, places) == [2]
    log.write_text(lines(1, 2, 3))
    assert [row for row in read(tmp_path, places) if row] == [3]


def test_damage_is_none_and_other_lines_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 64)
    log = tmp_path / "app.log"
    log.write_bytes(
        b'{"n": 1}\n{"n": \n' + b"\xff\xfe\n" + b"INFO x\n\n" + b'{"n": "' + b"y" * 200 + b'"}\n' + b'{"n": 5}\n'
    )
    assert read(tmp_path, {}) == [1, None, None, "INFO x\n", None, 5]


def test_tables_and_documents_are_read_once(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    places: dict[str, Place] = {}
    (tmp_path / "a.csv").write_text("n,empty\n1,\n2,\n")
    (tmp_path / "b.json").write_text('{"data": [{"n": 3}]}')
    (tmp_path / "c.json").write_text('[{"n": 4}, 5]')
    parquet.write_table(pa.table({"n": [6]}), tmp_path / "d.parquet")
    assert read(tmp_path, places) == ["1", "2", 3, 4, None, 6]
    (tmp_path / "a.csv").rename(tmp_path / "z.csv")
    assert read(tmp_path, places) == []
    (tmp_path / "bad.json").write_text("[1")
    with pytest.raises(DataError, match="not valid JSON"):
        read(tmp_path, places)


def test_hidden_files_are_not_logs(tmp_path: Path) -> None:
    (tmp_path / ".app.jsonl.swp").write_text("x")
    with pytest.raises(DataError, match="no files"):
        files_of(tmp_path)
    with pytest.raises(DataFileNotFoundError):
        files_of(tmp_path / "nowhere")


def test_a_mark_before_the_first_line_is_no_part_of_it(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.jsonl").write_bytes(mark + lines(1, 2).encode())
    (tmp_path / "b.csv").write_bytes(mark + b"n\n3\n")
    (tmp_path / "c.json").write_bytes(mark + b'[{"n": 4}]')
    assert read(tmp_path, {}) == [1, 2, "3", 4]


def test_a_table_may_be_gzipped(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"n": [6]}), tmp_path / "d.parquet")
    (tmp_path / "d.parquet.gz").write_bytes(gzip.compress((tmp_path / "d.parquet").read_bytes()))
    (tmp_path / "d.parquet").unlink()
    assert read(tmp_path, {}) == [6]


PACKED = gzip.compress(lines(*range(500)).encode())
DEEP = b"[" * 100_000 + b"]" * 100_000
DAMAGED = {
    "cut.jsonl.gz": (PACKED[:-200], "cannot be unpacked"),
    "bad.jsonl.gz": (PACKED[:40] + b"\xff" * 40 + PACKED[80:], "cannot be unpacked"),
    "latin.csv": ("n\ncafé\n".encode("latin-1"), "not UTF-8"),
    "latin.json": ('[{"n": "café"}]'.encode("latin-1"), "not valid JSON"),
    "wide.csv": (b'n\n"' + b"y" * (files.LONGEST_LINE + 1) + b'"\n', "no table"),
    "bad.parquet": (b"PAR1" + b"\0" * 40 + b"PAR1", "no Parquet file"),
    "empty.parquet": (b"", "no Parquet file"),
    "deep.json": (DEEP, "nested too deeply"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    content, part = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}(.|\n)*{part}(.|\n)*to do:"):
        read(tmp_path, {})


def test_a_row_that_is_too_deep_is_none(tmp_path: Path) -> None:
    deep = b'{"n": ' + b"[" * 300 + b"]" * 300 + b"}"
    (tmp_path / "a.jsonl").write_bytes(deep + b"\n" + b'{"n": ' + DEEP + b"}\n" + lines(1).encode())
    (tmp_path / "b.json").write_bytes(b"[" + deep + b', {"n": 2}]')
    assert read(tmp_path, {}) == [None, None, 1, None, 2]
