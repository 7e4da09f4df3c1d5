"""The mark of the released model: FOLDER/release.json, which is replaced as a whole.

    {"format": 1, "model", "content_hash", "release"       what is released now
     "releases": [a record for each release, in order]     "moves": [each change of the mark, with its date]}

Models are named by paths relative to FOLDER. Nothing here deletes or moves a model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from assent.errors import RunFolderError, UsageError
from assent.runs.files import bytes_of, from_json, write_json
from assent.runs.manifest import now

RELEASE, FORMAT = "release.json", 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A model that was released.

    model         its folder, relative to the folder of the mark
    content_hash  of its files, when it was marked
    parent        number of the release that it was compared with and replaced; None for the first
    reference     what training held the model to, in words; None where no update made it
    gates         each limit with its figure and its interval's end
    pipeline      folder of the pipeline that made it
    """

    number: int
    model: str
    content_hash: str
    parent: int | None
    date: str
    reference: str | None = None
    gates: tuple[Mapping[str, Any], ...] = ()
    pipeline: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A change of the mark."""

    what: Literal["update", "rollback"]
    release: int
    date: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What is released, what was, and how the mark moved. `folder` holds release.json."""

    folder: Path
    releases: tuple[Release, ...]
    moves: tuple[Move, ...]

    @property
    def current(self) -> Release:
        return self.by_number(self.moves[-1].release)

    def by_number(self, number: int) -> Release:
        return self.releases[number - 1]

    def path_of(self, release: Release) -> Path:
        """The model's folder, from the working directory."""
        return Path(os.path.relpath((self.folder.resolve() / release.model).resolve()))

    def left_by_rollback(self, content_hash: str) -> str | None:
        """The date on which a model of this content was last rolled back; None if it never was."""
        numbers = {one.number for one in self.releases if one.content_hash == content_hash}
        pairs = list(zip(self.moves, self.moves[1:], strict=False))
        dates = [to.date for was, to in pairs if to.what == "rollback" and was.release in numbers]
        return dates[-1] if dates else None

    def with_release(self, model: Path, content_hash: str, **known: Any) -> Mark:
        """The mark on one more model."""
        number = len(self.releases) + 1
        release = Release(
            number=number, model=relative(model, self.folder), content_hash=content_hash,
            parent=self.current.number if self.releases else None, date=now(), **known,
        )  # fmt: skip
        move = Move(what="update", release=number, date=release.date)
        return Mark(self.folder, (*self.releases, release), (*self.moves, move))

    def rolled_back(self) -> Mark:
        """The mark on the parent of what is released. Raises UsageError where it has none."""
        current = self.current
        if current.parent is None:
            raise UsageError(
                f"release {current.number} has no parent to roll back to",
                got=f"{self.path_of(current)}, the first release in {self.folder}",
                fix="serve another model by hand, or make one with assent update",
            )
        return Mark(
            self.folder, self.releases, (*self.moves, Move(what="rollback", release=current.parent, date=now()))
        )

    def write(self) -> None:
        """Replaces release.json, atomically."""
        current = self.current
        write_json(
            self.folder / RELEASE,
            {
                "format": FORMAT,
                "model": current.model,
                "content_hash": current.content_hash,
                "release": current.number,
                "releases": [asdict(one) for one in self.releases],
                "moves": [asdict(one) for one in self.moves],
            },
        )


def relative(path: Path, folder: Path) -> str:
    """The path as seen from the folder: both may move together."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def read_mark(folder: str | Path) -> Mark | None:
    """The folder's mark; None if nothing was released there. Raises RunFolderError for a file that is damaged."""
    path = Path(folder)
    try:
        record = from_json(bytes_of(path / RELEASE))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}, not {FORMAT}")
        mark = Mark(path, tuple(Release(**{**one, "gates": tuple(one["gates"])}) for one in record["releases"]),
                    tuple(Move(**one) for one in record["moves"]))  # fmt: skip
        numbers = [one.number for one in mark.releases]
        named = {move.release for move in mark.moves} | {one.parent for one in mark.releases if one.parent is not None}
        if numbers != list(range(1, len(numbers) + 1)) or not named <= set(numbers) or not mark.moves:
            raise ValueError("releases and moves do not fit each other")
        return mark
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunFolderError(
            f"{path / RELEASE} is damaged",
            got=error,
            expected="what assent update wrote",
            fix="put it back from a copy",
        ) from None
