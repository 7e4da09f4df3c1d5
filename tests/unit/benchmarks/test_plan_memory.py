"""benchmarks/plan_memory.py goes on where it stopped, and its figures are those of its kept results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "plan_memory.py"
GRID = ["--models", "8m", "--stages", "sft", "--budgets", "2048", "--lengths", "128", "512"]
ERRORS = {("full", 128): 0.02, ("lora", 128): -0.04, ("full", 512): 0.05, ("lora", 512): -0.01}


def keep(folder: Path, adapter: str, length: int, **more: Any) -> None:
    measured = {"measured": 1000.0, "predicted": 1000.0 * (1 + ERRORS[adapter, length]), "moment": "first step",
                "seconds": 10.0, "planned_seconds": [8.0, 12.0], "threads": 2, **more}  # fmt: skip
    (folder / f"sft-{adapter}-8m-{length}-2048.json").write_text(json.dumps(measured))


def asked(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--results", str(folder), *GRID, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_errors_trend_and_time_are_those_of_the_kept_results(tmp_path: Path) -> None:
    for number, (adapter, length) in enumerate(ERRORS):
        keep(tmp_path, adapter, length, **({"seconds": 13.0} if number == 0 else {}))
    found = json.loads(asked(tmp_path).stdout)
    assert found["median_error"] == pytest.approx(0.03)
    assert found["worst_error"] == pytest.approx(0.05)
    assert found["most_below"] == pytest.approx(-0.04)
    slope, low, high = found["trend"]
    assert slope == pytest.approx((0.02 - -0.01) / 2)  # the means are -0.01 and 0.02, and 512 is 128 doubled twice
    assert low < 0 < high
    assert (found["time_in_range"], found["runs_with_a_time"], found["left"]) == (0.75, 4, 0)


def test_what_is_left_is_listed(tmp_path: Path) -> None:
    for adapter in ("full", "lora"):
        keep(tmp_path, adapter, 128)
    left = asked(tmp_path, "--dry-run").stdout.splitlines()
    assert [line.split(":")[0] for line in left[:-1]] == ["sft-full-8m-512-2048", "sft-lora-8m-512-2048"]
    assert left[-1].startswith("2 of 4 cells are left")


def test_results_of_different_numbers_of_threads_are_not_mixed(tmp_path: Path) -> None:
    for number, (adapter, length) in enumerate(ERRORS):
        keep(tmp_path, adapter, length, threads=1 + number % 2)
    done = asked(tmp_path)
    assert done.returncode == 1
    assert "different numbers of threads: [1, 2]" in done.stderr


def test_the_table_has_each_stages_range_by_length(tmp_path: Path) -> None:
    for adapter, length in ERRORS:
        keep(tmp_path, adapter, length)
    lines = asked(tmp_path, "--table").stdout.splitlines()
    assert lines[0] == "| stage | 128 tokens | 512 tokens |"
    assert lines[2] == "| sft, full | +2.0% to +2.0% | +5.0% to +5.0% |"
    assert "median 3.0%, worst 5.0%, lowest -4.0%" in lines[5]
