"""The files of examples/cases as modules, and what their main gives and prints."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.support.docs import ROOT

CASES = ROOT / "examples" / "cases"
FILES = {file.name[:2]: file for file in sorted(CASES.glob("[0-9][0-9]_*.py"))}


def case(number: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"case_{number}", FILES[number])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
