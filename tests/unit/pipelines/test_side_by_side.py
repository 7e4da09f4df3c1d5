"""Stages that do not depend on each other run side by side, on threads that are settled once."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from assent.cli import main
from assent.cli.entry import _explain
from assent.errors import NonFiniteError, RunError
from assent.pipelines import children, shares, steps
from assent.pipelines import plan as planning
from assent.pipelines.child import _described
from assent.pipelines.plan import read_plan
from assent.pipelines.runner import run_pipeline
from assent.pipelines.shares import fits, number_of_jobs, settled
from assent.runs.progress import PlainProgress, Silent, TerminalProgress
from tests.support import scripted_stages
from tests.support.cli import said
from tests.support.scripted_stages import wait_for


@pytest.fixture(autouse=True)
def _two_cores_and_scripted_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (steps, planning):
        monkeypatch.setattr(module, "STEPS", scripted_stages.STEPS)
    monkeypatch.setattr(shares, "cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3]), *sys.path])


def pipeline(tmp_path: Path, stages: Mapping[str, Mapping[str, Any]]) -> Path:
    """Stages by name; `needs` are those whose file a stage takes, the rest are its options."""
    entries = []
    for name, options in stages.items():
        takes = {other: f"${{{other}.file}}" for other in options.get("needs", [])}
        own = {key: str(value) for key, value in options.items() if key != "needs"}
        entries.append({"name": name, "command": "script", "options": {**own, "takes": takes}})
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"name": "test", "stages": entries}))
    return path


def run(tmp_path: Path, stages: Mapping[str, Mapping[str, Any]], **options: Any) -> dict[str, Any]:
    plan = read_plan(pipeline(tmp_path, stages), output_dir=str(tmp_path / "out"))
    return run_pipeline(
        plan, report=lambda folder: folder, progress=options.pop("progress", Silent()), **options
    ).outputs


def called(tmp_path: Path, name: str) -> list[list[str]]:
    """Process and OMP_NUM_THREADS of each time that a stage ran."""
    path = tmp_path / "out" / name / "calls"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def fork(**options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """first -> left and right -> last; each of left and right waits until the other has begun."""
    return {
        "first": {},
        "left": {"needs": ["first"], "says": "left-runs", "waits_for": "right-runs", **options.get("left", {})},
        "right": {"needs": ["first"], "says": "right-runs", "waits_for": "left-runs", **options.get("right", {})},
        "last": {"needs": ["left", "right"]},
    }


def alone(stages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same without waiting for each other."""
    return {name: {k: v for k, v in options.items() if k != "waits_for"} for name, options in stages.items()}


def test_two_stages_overlap_and_the_others_wait_for_what_they_need(tmp_path: Path) -> None:
    outputs = run(tmp_path, fork(), jobs=2)
    assert list(outputs) == ["first", "left", "right", "last"]
    assert Path(outputs["last"]["file"]).read_text() == "last(left(first()),right(first()))"
    record = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert record["finished"]
    assert record["threads"] == {"first": None, "left": 1, "right": 1, "last": None}
    mine = str(os.getpid())
    assert [called(tmp_path, name)[0][0] == mine for name in outputs] == [True, False, False, True]
    assert [called(tmp_path, name)[0][1] for name in ("left", "right")] == ["1", "1"]


def test_by_default_every_stage_runs_in_this_process_in_order(tmp_path: Path) -> None:
    run(tmp_path, alone(fork()))
    assert [called(tmp_path, name) for name in ("first", "left", "right", "last")] == [[[str(os.getpid()), "None"]]] * 4
    threads = json.loads((tmp_path / "out" / "pipeline.json").read_text())["threads"]
    assert set(threads.values()) == {None}


def test_a_stage_keeps_its_threads_however_many_jobs_resume_it(tmp_path: Path) -> None:
    stages = alone(fork(left={"fails": "error"}))
    with pytest.raises(NonFiniteError):
        run(tmp_path, stages, jobs=2)
    before = json.loads((tmp_path / "out" / "pipeline.json").read_text())["threads"]
    (tmp_path / "mended").touch()
    run(tmp_path, stages, jobs=1)
    assert {threads for name in ("left", "right") for _, threads in called(tmp_path, name)} == {"1"}
    assert len(called(tmp_path, "left")) == 2
    assert json.loads((tmp_path / "out" / "pipeline.json").read_text())["threads"] == before


def test_a_pipeline_that_began_with_one_job_says_that_more_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NonFiniteError):
        run(tmp_path, alone(fork(right={"fails": "error"})))
    with pytest.raises(NonFiniteError):
        run(tmp_path, alone(fork(right={"fails": "error"})), jobs=2)
    assert "--jobs 2 changes nothing: this pipeline was started with --jobs 1" in capsys.readouterr().err
    (tmp_path / "line").mkdir()
    run(tmp_path / "line", {"a": {}, "b": {"needs": ["a"]}}, jobs=2)
    assert "each stage of this pipeline waits for another one" in capsys.readouterr().err


ENDS: list[tuple[str, type[BaseException], str]] = [
    ("error", NonFiniteError, "look at row 3"),
    ("oserror", OSError, "the disk is full while writing /somewhere"),
    ("memory", MemoryError, "not enough memory"),
    ("unexpected", RuntimeError, "stage left: KeyError: 'nobody thought of it'"),
    ("crash", RunError, "the process of stage left ended without a word"),
]


@pytest.mark.parametrize(("how", "kind", "text"), ENDS, ids=[how for how, *_ in ENDS])
def test_if_one_stage_fails_the_other_is_interrupted_and_nothing_new_starts(
    how: str, kind: type[BaseException], text: str, tmp_path: Path
) -> None:
    stages = fork(left={"fails": how}, right={"waits_for": "never"})
    with pytest.raises(kind) as caught:
        run(tmp_path, stages, jobs=2)
    message, status = _explain(caught.value)
    assert text in message
    assert status == 3
    assert (tmp_path / "out" / "right" / "checkpoint").read_text() == "kept"
    assert called(tmp_path, "last") == []
    if how == "unexpected":
        assert any("scripted_stages.py" in note for note in caught.value.__notes__)  # for --debug
    record = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert [entry["result"] is None for entry in record["stages"]] == [False, True, True]


def test_every_error_of_ours_is_the_same_behind_a_process(tmp_path: Path) -> None:
    stage = read_plan(pipeline(tmp_path, {"only": {}}), output_dir="x").stages[0]
    from assent.errors import DataFileNotFoundError, StopRun, StorageError, UsageError

    finding = {"rule": "r", "verdict": "v", "next_action": "n"}
    for error in (
        StopRun(finding, step=3, folder="f"),
        StorageError("disk", got=OSError(28, "full")),
        DataFileNotFoundError("none", expected="one"),
        UsageError("x"),
        KeyboardInterrupt("said"),
    ):
        same = children.error_of(stage, json.loads(json.dumps(_described(error))), 1)
        assert (type(same), _explain(same)) == (type(error), _explain(error))


def interrupted(tmp_path: Path, when: Callable[[], None], *, number: int, **options: Any) -> None:
    """Sends this process a signal once `when` returns."""

    def send() -> None:
        when()
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path, **options)
    assert sorted(str(caught.value).split("; ")) == [
        "left: the same command continues left",
        "right: the same command continues right",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_ends_all_of_them_in_good_order(tmp_path: Path, number: int) -> None:
    never = {"waits_for": "never"}
    stages = fork(left=never, right=never)

    def both_run() -> None:
        for name in ("left", "right"):
            wait_for(tmp_path / f"{name}-runs")

    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    interrupted(tmp_path, both_run, number=number, stages=stages, jobs=2)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert all((tmp_path / "out" / name / "checkpoint").exists() for name in ("left", "right"))
    (tmp_path / "never").touch()
    outputs = run(tmp_path, stages, jobs=2)
    assert len(called(tmp_path, "left")) == 2
    assert Path(outputs["last"]["file"]).read_text() == "last(left(first()),right(first()))"


def test_a_killed_pipeline_leaves_no_process_behind(tmp_path: Path) -> None:
    never = {"waits_for": "never"}
    path = pipeline(tmp_path, fork(left=never, right=never))
    code = (
        "import sys; from assent.pipelines import plan, shares, runner\n"
        "from tests.support.scripted_stages import STEPS\n"
        "plan.STEPS, shares.cores = STEPS, lambda: 2\n"
        "runner.run_pipeline(plan.read_plan(sys.argv[1], output_dir=sys.argv[2]), report=None, jobs=2)"
    )
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", code, str(path), str(tmp_path / "out")], env=environment)
    pids = []
    for name in ("left", "right"):
        wait_for(tmp_path / f"{name}-runs")
        while not (text := (tmp_path / f"{name}-runs").read_text()):
            pass
        pids.append(int(text))
    parent.kill()
    parent.wait()
    for name in ("left", "right"):
        wait_for(tmp_path / "out" / name / "checkpoint")
    for pid in pids:
        wait_for_end(pid)


def wait_for_end(pid: int) -> None:
    for _ in range(3000):
        with suppress(FileNotFoundError):
            if "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
                threading.Event().wait(0.02)
                continue
        return
    raise TimeoutError(f"process {pid} still runs")


def test_levels_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["a"]}, "d": {"needs": ["a"]}, "e": {"needs": ["b"]}}
    plan = read_plan(pipeline(tmp_path, stages), output_dir="x").stages
    monkeypatch.setattr(shares, "cores", lambda: 8)
    assert number_of_jobs("auto", plan) == 3
    assert settled(plan, 3) == {"a": None, "b": 2, "c": 2, "d": 2, "e": None}
    assert settled(plan, 2) == {"a": None, "b": 4, "c": 4, "d": 4, "e": None}
    assert settled(plan, 1) == dict.fromkeys("abcde")
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert settled(plan, 2)["b"] == 3  # what the user set
    monkeypatch.setattr(shares, "cores", lambda: 1)
    assert number_of_jobs("auto", plan) == 1
    assert settled(plan, 4)["b"] == 1
    assert fits(1, [1, 1, 1], 4)  # as many as were asked for, on fewer cores
    assert not fits(1, [1] * 4, 4)
    assert not fits(2, [1], 2) or shares.cores() > 2
    assert fits(64, [], 1)  # kept from a larger machine: alone


def test_a_path_into_the_folder_of_an_earlier_stage_is_a_need(tmp_path: Path) -> None:
    stages = {"a": {}, "b": {"waits_for": tmp_path / "out" / "a" / "out"}, "c": {"waits_for": tmp_path / "out" / "ab"}}
    plan = read_plan(pipeline(tmp_path, stages), output_dir=str(tmp_path / "out")).stages
    assert [stage.needs for stage in plan] == [frozenset(), {"a"}, frozenset()]


def test_the_progress_has_a_line_for_each_running_stage(tmp_path: Path) -> None:
    stream = io.StringIO()
    run(tmp_path, fork(), jobs=2, progress=PlainProgress(stream=stream))
    lines = stream.getvalue().splitlines()
    assert "stage 2 of 4: left (script), on 1 thread" in lines
    assert "left: left has begun" in lines
    assert any(line.startswith("right: 2/2, ") for line in lines)
    assert lines[-1].startswith("test: 4/4")


def test_the_lines_fit_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    progress, stream = TerminalProgress(), io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console", lambda **_: Console(file=stream, width=80, force_terminal=True, color_system=None)
    )
    shown = children.Shown(progress)
    with progress.task("demo", total=7):
        for name in ("reward", "dpo"):
            child: Any = type("Child", (), {"stage": type("Stage", (), {"name": name, "command": name})})
            shown.show(child, {"task": 1, "description": name, "total": 376, "done": 0})
            shown.show(child, {"advance": 1, "by": 188, "shown": {"loss": 0.6143, "rewards/accuracies": 0.712}})
        assert progress._bars is not None
        stream.truncate(0)
        progress._bars.refresh()
        screen = stream.getvalue()
        shown.show(child, {"ended": 1})
        assert len(progress._bars.tasks) == 2
    for name in ("reward", "dpo"):
        line = next(line for line in screen.splitlines() if name in line)
        assert "188/376" in line
        assert "loss 0.6143" in line
        assert len(line.replace("\x1b[1A", "").replace("\x1b[2K", "").strip()) <= 80


def test_the_command_takes_a_number_or_auto(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assent.commands.tools.report_on", lambda folder: Path(folder) / "report.html")
    path = pipeline(tmp_path, fork())
    status, out, err = said(["run", path, "--output-dir", tmp_path / "out", "--jobs", "auto"], capsys)
    assert status == 0, err
    assert out.startswith("first()\n\nleft(first())\n\nright(first())\n\nlast(")
    for wrong in ("0", "two", "1.5"):
        status, _, err = said(["run", path, "--output-dir", tmp_path / "out", "--jobs", wrong], capsys)
        assert status == 2
        assert "--jobs" in err
    assert main(["run", "--help"]) == 0
