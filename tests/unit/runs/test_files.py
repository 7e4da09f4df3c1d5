"""Files that take the place of others: what killed processes leave goes, what others write at the moment stays."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from assent.runs.files import claimed, keep_lines, remove_left_behind, replacing, write_json
from assent.runs.kept import Kept


def dead_writer(path: Path) -> None:
    """Another process is killed while it replaces `path`."""
    child = os.fork()
    if child == 0:
        with replacing(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_the_next_writer_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, 1)
    dead_writer(path)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".run.json.bak").write_text("somebody's own")
    (tmp_path / "other.tmp").write_text("somebody's own")
    write_json(path, 2)
    assert json.loads(path.read_text()) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == [".run.json.bak", "other.tmp", "run.json"]


def test_what_another_process_writes_at_the_moment_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with replacing(path) as temporary:
        temporary.write_text("1")
        remove_left_behind(tmp_path, ".run.json.", ".tmp")
        write_json(path, 2)
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_removed_before_it_is_locked_is_made_again(tmp_path: Path) -> None:
    made: list[Path] = []

    def make() -> Path:
        made.append(tmp_path / f"{len(made)}")
        if len(made) > 1:
            made[-1].write_text("")
        return made[-1]

    with claimed(make) as path:
        assert path == tmp_path / "1"


def test_a_failing_block_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path):
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_answers_are_put_aside_and_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    kept = Kept(path)
    for question in range(4):
        kept.keep(question, f"answer {question}")
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace("answer 1", "answer 7")  # still JSON, and another verdict
    lines[2] = lines[2].replace('"key"', '"kez"')
    path.write_text("".join(lines))
    found = Kept(path)
    assert [found.find(question) for question in range(4)] == ["answer 0", None, None, "answer 3"]
    assert "damaged lines (2, 3) were put aside" in found.said[0]
    assert path.with_name("judgements.jsonl.damaged").read_text() == "".join(lines[1:3])
    assert Kept(path).said == []


def test_lines_are_kept_atomically(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    keep_lines(path, [{"step": 1}])
    dead_writer(path)
    keep_lines(path, [{"step": 1}, {"step": 2}])
    assert list(tmp_path.iterdir()) == [path]
