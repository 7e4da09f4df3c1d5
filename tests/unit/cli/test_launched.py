"""Under a launcher, a command that is made for one process says so before it does anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from assent.cli import entry


@pytest.mark.parametrize(
    "argv", [["sample", "--model", "m"], ["data", "check", "f"], ["run", "p.yaml"], ["report", "r"]]
)
def test_a_command_of_one_process_is_refused(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert entry.main(argv) == 2
    assert f"assent {argv[0]} runs in one process" in capsys.readouterr().err


def test_one_process_says_it_for_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert entry.main(["sample", "--model", "m"]) == 2
    assert capsys.readouterr().err == ""


def test_a_command_that_trains_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    argv = ["dpo", "--model", str(tmp_path / "no"), "--data", str(tmp_path / "none.jsonl"), "--output-dir", "o"]
    assert entry.main(argv) == 2
    assert "one process" not in capsys.readouterr().err


def test_slices_of_a_file_are_one_process_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`srun assent COMMAND --num-shards 8 --shard $SLURM_PROCID`: the processes have nothing to do with each other."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert entry.main(["sample", "--model", "m", "--shard", "1"]) == 2
    assert "one process" not in capsys.readouterr().err
