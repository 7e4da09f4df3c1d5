"""Shards: how rows are cut, when a shard's file counts as done, and what a manifest refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from assent.data.shards import Apart, Done, Shards, cut, status_lines
from assent.errors import RunError, RunFolderError

PARTS = [(0, 2), (2, 4), (4, 5)]


def opened(
    folder: Path, rows: str = "abcde", parts: Sequence[tuple[int, int]] = PARTS, *, again: bool = True
) -> Shards:
    return Shards.open(folder, parts, digest=lambda first, last: rows[first:last], facts={"threads": 1}, again=again)


def filled(folder: Path) -> Shards:
    shards = opened(folder)
    for shard in shards.shards:
        records = [{"row": row, "third": 1 / 3} for row in range(shard.first, shard.last)]
        shards.write(shard, Done(records, {"flops": 2.0}))
    return shards


@pytest.mark.parametrize(
    ("rows", "shards", "unit", "parts"),
    [
        (10, 3, 1, [(0, 3), (3, 6), (6, 10)]),
        (10, 3, 4, [(0, 4), (4, 8), (8, 10)]),  # three units of 4, 4, 2
        (10, 2, 4, [(0, 4), (4, 10)]),
        (10, 9, 4, [(0, 4), (4, 8), (8, 10)]),  # no more shards than units
        (0, 3, 4, []),
    ],
)
def test_rows_are_cut_at_multiples_of_the_unit(rows: int, shards: int, unit: int, parts: list[tuple[int, int]]) -> None:
    assert cut(rows, shards=shards, unit=unit) == parts


def test_records_come_back_in_order_to_the_last_bit(tmp_path: Path) -> None:
    costs: list[float] = []
    records = list(filled(tmp_path).records(each=lambda _, seal: costs.append(seal["costs"]["flops"])))
    assert records == [{"row": row, "third": 1 / 3} for row in range(5)]
    assert costs == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("damage", ["byte", "cut", "gone", "other rows"])
def test_a_shard_whose_file_is_not_whole_is_not_done(damage: str, tmp_path: Path) -> None:
    shards = filled(tmp_path)
    path = shards.path(shards.shards[1])
    text = path.read_bytes()
    if damage == "byte":
        path.write_bytes(text.replace(b'"row": 3', b'"row": 7'))
    elif damage == "cut":
        path.write_bytes(text[: text.index(b"\n") + 1])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(text.replace(b'"rows": "cd"', b'"rows": "xy"'))
    assert [shards.is_done(shard) for shard in shards.shards] == [True, False, True]
    with pytest.raises(RunError, match=r"00001\.jsonl is missing or damaged"):
        list(shards.records())


def test_a_shard_with_a_row_kept_apart_is_taken_again(tmp_path: Path) -> None:
    shards = filled(tmp_path)
    shards.write(shards.shards[0], Done([{"row": 0}], {}, [Apart("data:2", "ValueError: no")]))
    assert not shards.is_done(shards.shards[0])
    status = shards.status()
    assert status["apart"] == [{"source": "data:2", "error": "ValueError: no"}]
    assert "  kept apart: data:2: ValueError: no" in status_lines(status)


def test_the_status_names_done_running_waiting_and_failed(tmp_path: Path) -> None:
    shards = opened(tmp_path)
    shards.write(shards.shards[0], Done([]))
    shards.failed(shards.shards[2], "first")
    shards.failed(shards.shards[2], "the worker was ended by SIGKILL")
    shards.failed(shards.shards[0], "mended since")
    with shards.claimed(shards.shards[1]) as free, opened(tmp_path).claimed(shards.shards[1]) as twice:
        assert (free, twice) == (True, False)
        status = shards.status()
    assert (status["done"], status["running"], status["waiting"]) == ([0], [1], [2])
    assert status["failed"] == {2: "the worker was ended by SIGKILL"}
    assert shards.status()["running"] == []  # a claim ends with its block


def test_a_manifest_refuses_other_rows_and_another_cut(tmp_path: Path) -> None:
    opened(tmp_path)
    assert len(opened(tmp_path, parts=[(0, 5)], again=False).shards) == 3
    with pytest.raises(RunFolderError, match="another number of shards") as cut_error:
        opened(tmp_path, parts=[(0, 5)])
    assert "--num-shards 3" in str(cut_error.value)
    with pytest.raises(RunFolderError, match="1 of 3 shards differ, the first of them 1"):
        opened(tmp_path, rows="abXde")
    path = tmp_path / "shards" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(RunFolderError, match="is damaged"):
        opened(tmp_path)
