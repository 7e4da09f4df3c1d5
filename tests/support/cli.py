"""A model folder and data files small enough for a test, and the CLI in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from assent.cli import main


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"what is {number} plus 1"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def demonstrations(path: Path, count: int = 6) -> Path:
    return write_rows(path, ({"prompt": question(i), "completion": answer(f"it is {i + 1}")} for i in range(count)))


def comparisons(path: Path, count: int = 6, *, first: int = 0) -> Path:
    rows = (
        {"prompt": question(i), "chosen": answer(f"it is {i + 1}"), "rejected": answer(f"no {i}")}
        for i in range(first, first + count)
    )
    return write_rows(path, rows)


def thumbs(path: Path, count: int = 6) -> Path:
    rows = (
        {"prompt": question(i), "completion": answer(f"it is {i + i % 2}"), "label": i % 2 == 1} for i in range(count)
    )
    return write_rows(path, rows)


def tiny_model(folder: Path, *, text: Path, context: int = 128) -> Path:
    from assent.models.new_model import new_model

    new_model(folder, text_files=[text], vocab_size=300, hidden_size=16, layers=1, heads=2, context=context)
    return folder


def said(argv: Iterable[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `assent ARGV`."""
    capsys.readouterr()
    status = main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    return status, out, err


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
