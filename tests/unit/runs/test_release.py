"""The mark of a release: back along the parents, whole or not there, and at home wherever its folder is moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from assent.errors import StorageError, UsageError
from assent.runs import files
from assent.runs.release import RELEASE, Mark, read_mark


@pytest.fixture
def mark(tmp_path: Path) -> Mark:
    """Three releases, each the parent of the next."""
    found = Mark(tmp_path / "releases", (), ())
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        found = found.with_release(tmp_path / name, f"hash of {name}")
    found.folder.mkdir()
    return found


def test_a_rollback_goes_along_the_parents_and_keeps_what_was(mark: Mark) -> None:
    assert [one.parent for one in mark.releases] == [None, 1, 2]
    assert mark.current.number == 3
    once = mark.rolled_back()
    assert (once.current.number, once.releases) == (2, mark.releases)
    twice = once.rolled_back()
    assert (twice.current.number, [move.release for move in twice.moves]) == (1, [1, 2, 3, 2, 1])
    with pytest.raises(UsageError, match="release 1 has no parent"):
        twice.rolled_back()
    after = once.with_release(mark.folder.parent / "c", "hash of d")  # its parent is what it replaced
    assert (after.current.number, after.current.parent, after.rolled_back().current.number) == (4, 2, 2)


def test_what_was_rolled_back_is_known_by_its_content(mark: Mark) -> None:
    assert mark.left_by_rollback("hash of c") is None
    back = mark.rolled_back()
    assert back.left_by_rollback("hash of c") == back.moves[-1].date
    assert back.left_by_rollback("hash of b") is None
    assert back.rolled_back().left_by_rollback("hash of b") is not None


def test_a_mark_is_read_as_it_was_written_and_moves_with_its_models(mark: Mark, tmp_path: Path) -> None:
    mark.write()
    assert read_mark(mark.folder) == mark
    assert read_mark(tmp_path / "nowhere") is None
    (tmp_path / "elsewhere").mkdir()
    for name in ("a", "b", "c", "releases"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    moved = read_mark(tmp_path / "elsewhere" / "releases")
    assert moved is not None
    assert moved.path_of(moved.current).resolve() == tmp_path / "elsewhere" / "c"


def test_a_mark_that_cannot_be_written_leaves_the_old_one(mark: Mark, monkeypatch: pytest.MonkeyPatch) -> None:
    mark.write()

    def full(path: Path) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(files, "fsync", full)
    with pytest.raises(StorageError):
        mark.rolled_back().write()
    assert read_mark(mark.folder) == mark
    assert [path.name for path in mark.folder.iterdir()] == [RELEASE]
