"""A real Ray cluster of two workers on this machine: the whole command's bytes, though an actor is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import said
from tests.support.rows import write_rows

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")


def test_two_actors_give_the_whole_commands_bytes_though_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"p {i}", "completion": f" row {i} " + "b" * (i % 5)} for i in range(600)]
    write_rows(tmp_path / "completions.jsonl", rows)
    argv = ["score", "--data", "completions.jsonl", "--reward", "tests.support.sharding:length_or_die_once"]
    Path("killed-once").touch()
    assert said([*argv, "--output-dir", "whole"], capsys)[0] == 0
    Path("killed-once").unlink()
    status, _, err = said([*argv, "--output-dir", "parts", "--engine", "ray", "--workers", 2], capsys)
    assert status == 0, err
    assert Path("killed-once").exists()
    assert Path("parts/scores.jsonl").read_bytes() == Path("whole/scores.jsonl").read_bytes()
    assert "the worker was lost" in Path("parts/shards/failures.jsonl").read_text()
