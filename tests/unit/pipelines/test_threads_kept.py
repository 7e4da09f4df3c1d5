"""A stage that ran beside another and was interrupted has, resumed alone, the bits of one that never was (law 7)."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from assent.cli import main
from assent.engine.threads import kept_threads
from assent.pipelines import shares
from assent.pipelines.runner import _Run
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from tests.support.cli import said
from tests.support.stages import told, write_inputs

CPU = torch.device("cpu")


def test_resumed_alone_after_an_interrupt_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = write_inputs(tmp_path)
    options = {
        "model": inputs["model"],
        "data": inputs["prompts"],
        "reward": "tests.support.stages:held_up",
        "total_steps": 4,
        "max_new_tokens": 6,
        "max_length": 64,
        "batch_size": 4,
        "num_completions": 2,
        "learning_rate": 3e-3,
        "save_steps": 0,
    }
    stages = [{"name": name, "command": "rloo", "options": options} for name in ("left", "right")]
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"name": "two", "stages": stages}))
    alone = tmp_path / "alone.yaml"
    alone.write_text(yaml.safe_dump(options))
    monkeypatch.setenv("HELD_UP", str(tmp_path))
    monkeypatch.setattr(shares, "cores", lambda: 2)
    monkeypatch.setattr("assent.engine.threads.cores", lambda: 2)
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3]), *sys.path])

    def interrupt() -> None:
        until = time.monotonic() + 600
        while time.monotonic() < until:
            asked = [path.read_text() for path in tmp_path.glob("asked-*")]
            if len(asked) == 2 and all(text == "xxx" for text in asked):
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    def stop_and_let_go(self: _Run, *args: Any) -> None:
        stop(self, *args)  # first the signal, so that none goes on without it
        (tmp_path / "go").touch()

    stop = _Run._stop
    monkeypatch.setattr(_Run, "_stop", stop_and_let_go)
    threading.Thread(target=interrupt, daemon=True).start()
    status, _, err = said(["run", file, "--output-dir", tmp_path / "out", "--jobs", 2], capsys)
    assert status == 130, err
    folder = tmp_path / "out" / "left"
    assert "left: the same command continues after step" in err
    assert json.loads((folder / "run.json").read_text())["facts"]["threads"] == 1
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        status, _, err = said(["rloo", "--config", alone, "--output-dir", folder], capsys)
        assert (status, torch.get_num_threads()) == (0, 2), err
        assert "1 of 2 cores, as this run began" in err
        torch.set_num_threads(1)
        assert main(["rloo", "--config", str(alone), "--output-dir", str(tmp_path / "whole")]) == 0
    finally:
        torch.set_num_threads(threads)
    weights = [path / "model" / "model.safetensors" for path in (folder, tmp_path / "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert told(folder / "metrics.jsonl") == told(tmp_path / "whole" / "metrics.jsonl")


@pytest.mark.parametrize(("began", "here", "inside"), [(None, 4, 2), (1, 4, 1), (3, 4, 3), (8, 4, 2)])
def test_torch_has_the_threads_that_the_run_began_with(
    began: int | None, here: int, inside: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assent.engine.threads.cores", lambda: here)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with RunFolder.open(tmp_path / "run", {}, command="sft", resume=True) as folder:
            if began is not None:
                folder.record(threads=began)
            with kept_threads(folder, RunLog(folder), CPU):
                assert torch.get_num_threads() == inside
            assert torch.get_num_threads() == 2
            assert folder.manifest["facts"]["threads"] == (began or 2)
            assert len(folder.manifest["notes"]) == int(began is not None)
    finally:
        torch.set_num_threads(threads)
