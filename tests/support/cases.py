"""The files of examples/cases as modules, and what their main gives and prints."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from tests.support.docs import ROOT
from tests.support.scripts import load_script

CASES = ROOT / "examples" / "cases"
FILES = {file.name[:2]: file for file in sorted(CASES.glob("[0-9][0-9]_*.py"))}


def case(number: str) -> ModuleType:
    return load_script(FILES[number], f"case_{number}")


def answer(number: str, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """What the case's main gives, and what it printed."""
    sys.path.insert(0, str(CASES))  # as Python does for a file that is run: cases share helpers
    try:
        main = case(number).main
    finally:
        sys.path.remove(str(CASES))
    capsys.readouterr()
    found = main()
    return found, capsys.readouterr().out
