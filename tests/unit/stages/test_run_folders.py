"""What happens to runs in the world: damaged logs and models, folders of one's own, Ctrl-C, few steps."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from assent.cli import main
from assent.runs.reading import read_run
from assent.stages import run_models
from tests.support.stages import arguments, interrupted_after, told, write_inputs


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    return write_inputs(tmp_path)


@pytest.mark.parametrize("change", [(b":", b"\x00"), (b"step", b"stap"), (b'"step": 1', b'"step": 1.5')])
def test_a_damaged_line_is_put_aside_and_the_good_ones_around_it_stay(
    change: tuple[bytes, bytes],
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    assert main(arguments("sft", inputs, tmp_path / "whole")) == 0
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        assert main(argv) == 130
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    first_step = next(i for i, line in enumerate(lines) if b'"step": 1' in line)
    damaged = lines[first_step].replace(*change, 1)
    path.write_bytes(b"\n".join([*lines[:first_step], damaged, *lines[first_step + 1 :]]))
    assert 1 not in read_run(tmp_path / "run").metrics["loss"].steps
    capsys.readouterr()
    assert main(argv) == 0
    assert f"damaged lines ({first_step + 1}) were put aside" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl.damaged").read_bytes() == damaged + b"\n"
    whole = told(tmp_path / "whole" / "metrics.jsonl")
    assert told(path) == whole[:first_step] + whole[first_step + 1 :]
    assert len(read_run(tmp_path / "run").metrics["loss"].steps) == 4


@pytest.mark.parametrize("how", ["no last newline", "step of another", "all gone"])
def test_lines_that_are_lost_without_a_trace_are_reported(
    how: str,
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        assert main(argv) == 130
    path = tmp_path / "run" / "metrics.jsonl"
    text = path.read_text()
    second = text.index('{"step": 2')
    if how == "no last newline":
        path.write_text(text[: text.index("\n", second)] + "x")
    elif how == "step of another":
        path.write_text(text.replace('{"step": 2', '{"step": 9'))
    else:
        path.unlink()
    capsys.readouterr()
    assert main(argv) == 0
    lost = "1, 2 (2 in all)" if how == "all gone" else "2 (1 in all)"
    assert f"metrics.jsonl has lost its lines of these steps: {lost}" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl.damaged").exists() == (how == "no last newline")


def test_nothing_of_an_interrupted_write_is_left_and_odd_names_stay(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupted_after(5, patch)
        assert main(argv) == 130
    checkpoints = tmp_path / "run" / "checkpoints"
    own = {"step-²", "step-٣", "step-03", "step-3.bak", ".step-9.tmp.mine"}
    for name in (*own, ".step-5.tmp"):
        (checkpoints / name).mkdir()
    (tmp_path / "run" / ".model.part-1").mkdir()
    assert main(argv) == 0  # writes no other checkpoint
    assert {path.name for path in checkpoints.iterdir()} == {*own, "step-2", "step-4"}
    assert not (tmp_path / "run" / ".model.part-1").exists()


def test_a_checkpoint_is_not_replaced_by_itself(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward fails at once after a resume: the only checkpoint must not be gone for a moment."""
    argv = arguments("ppo", inputs, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        assert main(argv) == 130
    path = tmp_path / "run" / "checkpoints" / "step-2" / "manifest.json"
    before = path.stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr("assent.stages.online.score_rollouts", lambda *_, **__: 1 / 0)
        assert main(argv) == 3
    assert path.stat().st_ino == before


@pytest.mark.parametrize("how", ["gone", "cut", "changed"])
def test_a_finished_run_whose_model_is_damaged_writes_it_again(
    how: str, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    assert main(argv) == 0
    path = tmp_path / "run" / "model" / "model.safetensors"
    good, metrics = path.read_bytes(), told(tmp_path / "run" / "metrics.jsonl")
    if how == "gone":
        shutil.rmtree(path.parent)
    else:
        path.write_bytes(good[:-8] if how == "cut" else good[:-8] + bytes(8))
    capsys.readouterr()
    assert main(argv) == 0
    assert "written again" in capsys.readouterr().err
    assert path.read_bytes() == good
    assert told(tmp_path / "run" / "metrics.jsonl") == metrics
    assert main(argv) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_without_a_checkpoint_a_damaged_model_is_an_error(inputs: dict[str, str], tmp_path: Path) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    assert main(argv) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "model" / "config.json").unlink()
    assert main(argv) == 2


def test_folders_of_ones_own_among_the_checkpoints_stay(inputs: dict[str, str], tmp_path: Path) -> None:
    mine = tmp_path / "run" / "checkpoints"
    argv = arguments("sft", inputs, tmp_path / "run")
    assert main([*argv, "--save-steps", "0"][:-2]) == 0
    kept = ["step-3.bak", "step-", "step-03", ".step-notes", "notes"]
    for name in kept:
        (mine / name).mkdir()
        (mine / name / "file").write_text("mine")
    os.symlink(tmp_path, mine / "step-77")
    (tmp_path / "run" / "model" / "model.safetensors").unlink()  # so that it trains, and writes checkpoints, again
    assert main(argv) == 0
    assert all((mine / name / "file").read_text() == "mine" for name in kept)
    assert (mine / "step-77").is_symlink()
    assert Path(inputs["model"]).is_dir()


@pytest.mark.parametrize(("save_steps", "promise"), [("0", "starts over"), ("1", "continues after step 1")])
def test_ctrl_c_promises_what_the_same_command_will_do(
    save_steps: str,
    promise: str,
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    argv[argv.index("--save-steps") + 1] = save_steps
    interrupted_after(2, monkeypatch)
    assert main(argv) == 130
    assert promise in capsys.readouterr().err.splitlines()[-1]


def test_the_reference_reads_only_the_rows_that_are_trained_on(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten rows, one step of four: four are read, and the loss is that of a run that had read all."""
    read: list[int] = []
    original = run_models.reference_logps

    def note(groups: list[object], *args: object, **keywords: object) -> object:
        read.append(len(groups))
        return original(groups, *args, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(run_models, "reference_logps", note)
    argv = arguments("dpo", inputs, tmp_path / "run")
    argv[argv.index("--max-steps") + 1] = "1"
    other = str(Path(inputs["model"]).parent / "other")
    shutil.copytree(inputs["model"], other)
    assert main([*argv, "--reference", other]) == 0
    assert read[0] == 4
    row = next(row for row in told(tmp_path / "run" / "metrics.jsonl") if "loss" in row)
    assert row["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    assert load_file(tmp_path / "run" / "model" / "model.safetensors")


def test_the_same_data_and_model_under_another_path_are_the_same_run(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        assert main(argv) == 130
    moved = {
        name: str(shutil.move(path, Path(path).with_name(f"moved-{Path(path).name}"))) for name, path in inputs.items()
    }
    assert main(arguments("sft", moved, tmp_path / "run")) == 0
    assert "resumed after step 2" in capsys.readouterr().err
    rows = Path(moved["demonstrations"]).read_text().splitlines()
    Path(moved["demonstrations"]).write_text("\n".join(rows[::-1]) + "\n")
    assert main(arguments("sft", moved, tmp_path / "run")) == 2
    assert "hash of train data" in capsys.readouterr().err
