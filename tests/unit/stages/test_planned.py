"""The plan that a run compares itself with: a run never ends because its plan cannot be made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assent.cli import main
from assent.planning.time import Duration, HeldOut, Rates, duration
from assent.stages import planned
from tests.support.rows import read_rows
from tests.support.stages import arguments, write_inputs


def test_a_run_whose_plan_fails_trains_without_one_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("sizes differ\nby layer")

    monkeypatch.setattr(planned, "predict", fails)
    assert main(arguments("sft", write_inputs(tmp_path), tmp_path / "run")) == 0
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["facts"]["plan"] is None
    assert "this run has no plan to be compared with: RuntimeError: sizes differ" in manifest["notes"]


def test_a_runs_planned_time_has_its_measurements_on_held_out_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = Rates((1.0,) * 4, (1.0,) * 4, (1.0,) * 4, 0.0, (1.0, 1.0), is_measured=True, source="")
    given: list[HeldOut] = []

    def recorded(*args: Any, held_out: HeldOut, **more: Any) -> Duration:
        given.append(held_out)
        return duration(*args, held_out=held_out, **more)

    monkeypatch.setattr(planned, "calibrated", lambda: rates)
    monkeypatch.setattr(planned, "duration", recorded)
    inputs = write_inputs(tmp_path)
    measuring = ["--eval-steps", "2", "--eval-prompts", "1", "--eval-max-new-tokens", "3"]
    assert main([*arguments("sft", inputs, tmp_path / "run"), *measuring]) == 0
    (held_out,) = given
    measured = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "eval_loss" in row]
    assert held_out.times == len(measured) == 4  # before the first of five steps, after 2 and 4, and after the last
    assert len(held_out.rows) == len(read_rows(inputs["held_out_demonstrations"]))
    assert [prompt.completion_lengths for prompt in held_out.prompts] == [(3,)]
