"""The soak's slopes, the kills' bookkeeping, and the steps of the script for the first GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import kills
from tests.support.scripts import load_script
from tests.support.stages import write_inputs

SCRIPTS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return load_script(SCRIPTS / "soak.py")


def test_a_slope_is_that_of_the_blocks_means(soak: Any) -> None:
    at = [float(second) for second in range(200)]
    rising = soak.slope_of(at, [100.0 + 0.5 * second for second in at])
    assert rising["slope"] == pytest.approx(0.5)
    assert rising["blocks"][0] == pytest.approx(100 + 0.5 * 4.5)  # ten readings a block
    assert not rising["flat"]
    assert rising["share_of_mean_over_the_whole_time"] == pytest.approx(0.5 * 190 / (100 + 0.5 * 99.5))
    assert soak.slope_of(at, [100.0 + (-1) ** int(second) for second in at])["flat"]
    assert "too_few" in soak.slope_of(at[:4], at[:4])


def test_a_checkpoint_that_is_gone_or_older_is_lost() -> None:
    assert kills.lost({"a": 3, "b": 2}, {"a": 4, "b": 2}) == []
    assert kills.lost({"a": 3, "b": 2}, {"a": 2}) == ["a: step 3", "b: step 2"]


def test_every_kind_of_command_is_killed(tmp_path: Path) -> None:
    paths = {**write_inputs(tmp_path), "other": "other", "completions": "rows.jsonl", "pipeline": "p.yaml"}
    names = {cell.name for cell in kills.cells(paths)}
    stages = {"sft", "reward", "dpo", "kto", "online-dpo", "ppo", "a2c", "grpo", "rloo"}
    assert stages | {"run", "eval", "sample, in shards", "score, in shards"} <= names
    assert {cell.processes for cell in kills.cells(paths)} == {1, 2}
    assert all(cell.words[-1] == "--output-dir" for cell in kills.cells(paths))


def test_the_first_gpus_steps_are_scripts_that_exist() -> None:
    text = (SCRIPTS / "first_gpu.sh").read_text()
    named = set(re.findall(r"benchmarks/(\w+\.py)", text))
    assert len(named) >= 5
    assert all((SCRIPTS / name).is_file() for name in named)
    assert set(re.findall(r"\$\(parts\) (\w+)", text)) == {"inputs", "attention", "graphs", "capped", "join"}
