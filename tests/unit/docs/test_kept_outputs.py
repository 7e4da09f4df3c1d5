"""docs/cases holds what the cases print, as they are now; docs/make_cases.py writes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.docs import ROOT
from tests.support.scripts import load_script

make_cases = load_script(ROOT / "docs" / "make_cases.py")
TOO_LONG = ["16", "29", "30"]
CASES = sorted(ROOT.glob("examples/cases/[0-9]*.py"))


def test_the_notes_name_the_cases_without_an_output_and_every_output_has_a_case() -> None:
    kept = {path.stem for path in make_cases.KEPT.glob("*.txt")}
    assert kept <= {case.stem for case in CASES}
    assert [case.stem[:2] for case in CASES if case.stem not in kept] == TOO_LONG
    notes = (ROOT / "docs/NOTES.md").read_text("utf-8")
    assert "The site keeps no output of cases 16, 29 and 30" in notes


@pytest.mark.parametrize("kept", sorted(make_cases.KEPT.glob("*.txt")), ids=lambda kept: kept.stem)
def test_a_kept_output_is_of_the_case_as_it_is(kept: Path) -> None:
    """If it fails: python docs/make_cases.py NUMBER."""
    head, _, said = kept.read_text("utf-8").partition("\n")
    assert not re.search(r"(?<![\w.])/\w[\w.-]*/\w", said), "it names a folder of the machine that it ran on"
    [source] = re.findall(r", of source (\w+);", head)
    assert source == make_cases.source_hash(ROOT / "examples/cases" / f"{kept.stem}.py")


def test_the_hash_follows_the_case_and_what_it_imports_from_beside_it(tmp_path: Path) -> None:
    case, helper = tmp_path / "01_a.py", tmp_path / "helper.py"
    case.write_text("import json\nfrom helper import x\n")
    helper.write_text("x = 1\n")
    (tmp_path / "other.py").write_text("y = 1\n")
    first = make_cases.source_hash(case)
    (tmp_path / "other.py").write_text("y = 2\n")
    assert make_cases.source_hash(case) == first
    helper.write_text("x = 2\n")
    second = make_cases.source_hash(case)
    case.write_text("import json\nfrom helper import x\nprint(x)\n")
    assert len({first, second, make_cases.source_hash(case)}) == 3
