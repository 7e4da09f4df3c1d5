"""The doctor's benchmark: its parts make each run once, and none after its time."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.docs import ROOT
from tests.support.scripts import load_script


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script(ROOT / "benchmarks" / "doctor.py")


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_each_run_is_made_by_one_part(benchmark: ModuleType, parts: int) -> None:
    makers = Counter(
        number
        for mine in range(1, parts + 1)
        for number in range(20)
        if benchmark.Runs(Path("nowhere"), None, benchmark.part_of(f"{mine}/{parts}")).makes(number)
    )
    assert makers == Counter(range(20))


def test_nothing_is_made_after_the_time(benchmark: ModuleType) -> None:
    assert not benchmark.Runs(Path("nowhere"), 0.0).makes(1)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b"])
def test_a_part_that_is_none_is_refused(benchmark: ModuleType, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected I/N"):
        benchmark.part_of(text)
