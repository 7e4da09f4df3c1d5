"""A disk that fails, and a process that dies, at single calls. `benchmarks/crash_points.py` tries every call."""

from __future__ import annotations

import pytest

from tests.support.crash_points import FAULTS, CrashPoints, spread
from tests.support.kills import inputs_for_kills

TRIED = 4
"""Points tried for each scenario and fault."""


@pytest.fixture(scope="module", params=["sft", "sample, shards"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CrashPoints:
    folder = tmp_path_factory.mktemp("points")
    return CrashPoints(request.param, folder / "work", inputs_for_kills(folder))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_one_call_loses_nothing_and_the_end_is_the_same(fault: str, run: CrashPoints) -> None:
    offset = list(FAULTS).index(fault)
    tried = spread(run.points, TRIED * len(FAULTS))[offset :: len(FAULTS)]
    assert len(tried) == TRIED
    assert [found for number in tried if (found := run.fault_of(number, fault))] == []


def test_the_points_are_those_of_checkpoints_logs_and_records(run: CrashPoints) -> None:
    kinds = {point.what.split()[0] for point in run.points}
    assert kinds == {"write", "rename", "fsync"}
    named = " ".join(point.what for point in run.points)
    files = ["run.json", "metrics.jsonl"]
    files += ["optimiser.safetensors", "rename checkpoints/step-1"] if run.more else ["rename shards/00001.jsonl"]
    assert [file for file in files if file not in named] == []
