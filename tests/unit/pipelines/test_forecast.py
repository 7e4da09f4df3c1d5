"""The time that a pipeline still takes follows from its stages' work and from measured rates, not from their number."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assent.pipelines.forecast import seconds_left, work_of
from assent.pipelines.plan import Plan, read_plan
from assent.pipelines.runner import run_pipeline
from assent.runs.progress import Silent

START = datetime(2026, 1, 1, tzinfo=UTC)
FILE = """
name: two
stages:
  - {name: world, command: sandbox-world, options: {num_prompts: 100}}
  - name: short
    command: sft
    options: {model: m, data: "${world.demonstrations}", max_steps: 10, batch_size: 8}
  - name: long
    command: sft
    options: {model: "${short.model_path}", data: "${world.demonstrations}", batch_size: 8, num_train_epochs: 2}
  - name: ppo
    command: ppo
    options: {model: "${long.model_path}", data: "${world.prompts}", reward: m, total_steps: 5, batch_size: 4}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "two.yaml").write_text(FILE)
    return read_plan(tmp_path / "two.yaml", output_dir=str(tmp_path / "out"))


def entry(plan: Plan, number: int, *, at: float, took: float | None, **result: Any) -> dict[str, Any]:
    """A stage's part of pipeline.json."""
    stage, moment = plan.stages[number], START + timedelta(seconds=at)
    finished = None if took is None else (moment + timedelta(seconds=took)).isoformat()
    times = {"started_at": moment.isoformat(), "finished_at": finished}
    return {"name": stage.name, **times, "result": None if took is None else {"model_path": "m", **result}}


def test_work_is_what_is_configured_or_what_an_earlier_stage_has_written(plan: Plan, tmp_path: Path) -> None:
    world, short, long, ppo = plan.stages
    assert work_of(world, {}) == 0.0
    assert work_of(short, {}) == 10 * 8 * 3
    assert work_of(long, {}) is None  # nobody knows yet how many rows there are
    (tmp_path / "rows.jsonl").write_text("{}\n" * 40)
    entries = {"world": {"result": {"demonstrations": str(tmp_path / "rows.jsonl")}}}
    assert work_of(long, entries) == 2 * 40 * 3
    assert work_of(ppo, {}) == 5 * 4 * 4 * (2 + 2 + 4 * 2 * 3)  # samples; two reads; four passes over policy and critic


def test_what_is_left_follows_from_work_and_the_rate_of_the_same_command(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n" * 40)
    assert seconds_left(plan.stages, {"stages": []}, now=START) is None  # nothing is measured
    first = entry(plan, 0, at=0, took=7, demonstrations=str(tmp_path / "rows.jsonl"))
    assert seconds_left(plan.stages, {"stages": [first]}, now=START) is None
    done = {"stages": [first, entry(plan, 1, at=7, took=24)]}  # 240 units: a tenth of a second for each
    now = START + timedelta(seconds=31)
    assert seconds_left(plan.stages, done, now=now) == pytest.approx(24 + 224.0)
    assert seconds_left(plan.stages, done, now=now, jobs=2) == pytest.approx(224.0)  # no stage is cut
    running = {"stages": [*done["stages"], entry(plan, 2, at=31, took=None)]}
    assert seconds_left(plan.stages, running, now=now + timedelta(seconds=20)) == pytest.approx(4 + 224.0)
    late = now + timedelta(seconds=100)
    assert seconds_left(plan.stages, running, now=late) == pytest.approx(224.0)  # it never counts below zero


def test_a_running_stage_is_measured_by_its_own_steps(plan: Plan, tmp_path: Path) -> None:
    """10 of 40 steps in 50 seconds: 150 are left of it, and a unit of its work costs 200 s / 240."""
    (tmp_path / "rows.jsonl").write_text("{}\n" * 40)
    folder = plan.stages[2].output_dir
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"facts": {"planned_steps": 40}}))
    (folder / "metrics.jsonl").write_text("".join(
        json.dumps({"step": step, "cost/seconds": 5.0 * step}) + "\n" for step in range(1, 11)
    ))  # fmt: skip
    stages = [
        entry(plan, 0, at=0, took=1, demonstrations=str(tmp_path / "rows.jsonl")),
        entry(plan, 1, at=1, took=200),
        entry(plan, 2, at=201, took=None),
    ]
    left = seconds_left(plan.stages, {"stages": stages}, now=START + timedelta(seconds=251))
    assert left == pytest.approx(150 + 2240 * (200 + 200) / 480)
    (folder / "metrics.jsonl").write_text("{")  # as it is being written
    assert seconds_left(plan.stages, {"stages": stages}, now=START + timedelta(seconds=251)) is not None


def test_a_resumed_stage_took_all_its_processes_time(plan: Plan, tmp_path: Path) -> None:
    """Its last process took 1 s, the earlier ones 23 s: the next stage's rate is a tenth of a second a unit."""
    (tmp_path / "rows.jsonl").write_text("{}\n" * 40)
    folder = plan.stages[1].output_dir
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"facts": {"planned_steps": 10}}))
    rows = [{"step": 10, "cost/seconds": 24.0}, {"step": 10, "eval_loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = entry(plan, 0, at=0, took=7, demonstrations=str(tmp_path / "rows.jsonl"))
    done = {"stages": [first, entry(plan, 1, at=7, took=1)]}
    assert seconds_left(plan.stages, done, now=START + timedelta(seconds=8)) == pytest.approx(24 + 224.0)


def test_the_runner_shows_it(tmp_path: Path) -> None:
    class Watched(Silent):
        left: Any = None

        def task(self, description: str, *, left: Any = None, **options: Any) -> Any:  # type: ignore[override]
            self.left = left or self.left
            return super().task(description, **options)

    file = "{name: p, stages: [{name: a, command: new-model, options: {text_files: [FILE], vocab_size: 300}}]}"
    (tmp_path / "p.yaml").write_text(file.replace("FILE", str(tmp_path / "text.txt")))
    (tmp_path / "text.txt").write_text("some words\n" * 50)
    progress, plan = Watched(), read_plan(tmp_path / "p.yaml", output_dir=str(tmp_path / "out"))
    run_pipeline(plan, report=lambda folder: folder, progress=progress)
    assert progress.left() is None  # a stage of next to no work tells nothing
