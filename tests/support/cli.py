"""The command line in this process, and what it leaves in a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from assent.cli import main


def said(argv: Iterable[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `assent ARGV`."""
    capsys.readouterr()
    status = main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    return status, out, err


def replaced(argv: Iterable[object], *pairs: object) -> list[object]:
    """The arguments with options in pairs of name and value: an option that is there gets the new value."""
    found = list(argv)
    for option, value in zip(pairs[::2], pairs[1::2], strict=True):
        if option in found:
            found[found.index(option) + 1] = value
        else:
            found += [option, value]
    return found


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
