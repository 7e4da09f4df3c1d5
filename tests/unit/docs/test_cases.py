"""What the pages of cases show was printed by the cases as they are now."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.support.docs import ROOT

spec = importlib.util.spec_from_file_location("make_cases", ROOT / "docs" / "make_cases.py")
assert spec is not None
assert spec.loader is not None
make_cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_cases)


@pytest.mark.parametrize("kept", sorted(make_cases.KEPT.glob("*.txt")), ids=lambda kept: kept.stem)
def test_a_kept_output_is_of_its_cases_source(kept: Path) -> None:
    head = kept.read_text("utf-8").partition("\n")[0]
    found = re.search(r"of source (\w+);", head)
    assert found is not None, head
    number = int(kept.stem[:2])
    now = make_cases.source_hash(ROOT / "examples" / "cases" / f"{kept.stem}.py")
    assert found[1] == now, f"the case has changed: python docs/make_cases.py {number}"
