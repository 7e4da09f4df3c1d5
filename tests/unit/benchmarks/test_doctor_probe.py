"""The benchmark of the doctor's probes: what it keeps of a reward model is what the command measures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from assent.sandbox.faults.records import record_of
from assent.sandbox.faults.score_faults import PlannedScores, healthy_scores
from assent.sandbox.faults.settings import Setting
from tests.support.docs import ROOT
from tests.support.scripts import load_script


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return load_script(ROOT / "benchmarks" / "doctor_probe.py")


def _short(setting: Setting) -> Setting:
    setting.rows = setting.rows[:60]
    setting.options |= {"batch_size": 12, "max_steps": 4}
    return setting


def test_a_model_without_a_pad_id_is_found_from_its_record(benchmark: ModuleType, tmp_path: Path) -> None:
    planned = PlannedScores("reward", ("scores-no-pad",), "calibration", 0)
    record = record_of(planned, tmp_path, making=lambda setting: benchmark.probed(_short(setting)))
    assert record is not None
    assert "score_moves_with_padding" in benchmark._seen(planned, record).found
    assert record_of(planned, tmp_path, make=False) == record  # kept, and not made again


def test_a_model_is_measured_with_two_files(benchmark: ModuleType, tmp_path: Path) -> None:
    setting = _short(healthy_scores("kinds", 1, models=tmp_path))
    record = benchmark.probed(setting)
    first, again = record["scored"], record["again"]
    assert first["given"]
    assert len(first["better"]) == len(setting.held_out)
    assert len(again["better"]) == benchmark.MOST_AGAIN
    assert first["better"][:50] != again["better"][:50]
    assert max(first["right_padded"]) < 1e-4
    healthy = PlannedScores("reward", (), "calibration", 50_000)
    found = benchmark._again([(healthy, {"scored": first, "again": first})])
    assert all(counts["right"] == counts["of"] == 1 for counts in found.values())
    assert found  # after four steps it ranks nothing
