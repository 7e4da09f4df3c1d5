"""assent doctor --watch: ends with the run, says each finding once, and leaves the machine to the run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from assent.commands import doctor_logs
from tests.support.cli import said
from tests.support.diagnosis import dpo_rows, write_run
from tests.support.rows import write_rows

LEARNS = [0.02 * i for i in range(60)]
STAYS = [0.0] * 60


def test_watching_ends_with_the_run_and_says_each_finding_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = dpo_rows(STAYS)
    run = write_run(tmp_path / "run", rows[:5], status="running", loss_type="sigmoid", beta=0.1, learning_rate=1e-9)
    looks = iter([(rows[:45], "running"), (rows[:50], "running"), (rows, "finished")])

    def next_look(seconds: float) -> None:
        assert seconds >= 7
        lines, status = next(looks)
        write_run(run, lines, status=status, loss_type="sigmoid", beta=0.1, learning_rate=1e-9)

    monkeypatch.setattr(doctor_logs.time, "sleep", next_look)
    status, out, err = said(["doctor", run, "--watch", "--refresh-seconds", 7], capsys)
    assert status == 1
    assert err.count("nothing_learned") == 1
    assert "FAULT  nothing_learned" in out


def test_another_trainers_log_is_watched_as_long_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = dpo_rows(STAYS)
    log = write_rows(tmp_path / "log.jsonl", rows[:5])
    looks = iter([(rows, 0.0), (rows, 700.0)])

    def next_look(seconds: float) -> None:
        lines, ago = next(looks)
        write_rows(log, lines)
        os.utime(log, (time.time() - ago,) * 2)

    monkeypatch.setattr(doctor_logs.time, "sleep", next_look)
    status, out, err = said(["doctor", log, "--watch"], capsys)
    assert (status, err.count("nothing_learned"), next(looks, None)) == (1, 1, None)
    assert "FAULT  nothing_learned" in out


def test_watching_takes_a_hundredth_of_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"loss_type": "sigmoid", "beta": 0.1}
    run = write_run(tmp_path / "run", dpo_rows(LEARNS), status="running", **options)
    clock = iter([10.0, 12.5, 20.0, 20.01])
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            write_run(run, dpo_rows(LEARNS), **options)

    monkeypatch.setattr(doctor_logs.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(doctor_logs.time, "sleep", pause)
    said(["doctor", run, "--watch", "--refresh-seconds", 7], capsys)
    assert pauses == [7, 250.0]  # the second look took 2.5 s
