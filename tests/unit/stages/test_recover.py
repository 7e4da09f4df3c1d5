"""A run.json that is damaged or gone does not strand good checkpoints: --recover rebuilds what they prove."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from assent.cli import main
from assent.engine.checkpoint import MANIFEST as CHECKPOINT_MANIFEST
from assent.engine.checkpoint import _seal, _serialise
from assent.runs.files import sha256_of
from tests.support.stages import arguments, interrupted_after, told, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def broken_off(argv: list[str], monkeypatch: pytest.MonkeyPatch, *, after: int = 3) -> Path:
    """The run.json of a run that was interrupted after a step, with a checkpoint of step 2."""
    with monkeypatch.context() as patch:
        interrupted_after(after, patch)
        assert main(argv) == 130
    return Path(argv[argv.index("--output-dir") + 1]) / "run.json"


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "no record": lambda path: path.write_text('{"format": 1}'),
    "other options": lambda path: path.write_bytes(path.read_bytes().replace(b"0.003", b"0.007")),
    "other start": lambda path: path.write_bytes(path.read_bytes().replace(b'"model_start": "', b'"model_start": "x')),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_run_without_its_record_ends_as_one_that_was_never_damaged(
    how: str,
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    assert main(arguments("sft", inputs, tmp_path / "whole")) == 0
    path = broken_off(argv, monkeypatch)
    before = json.loads(path.read_text())
    DAMAGE[how](path)
    damaged = path.read_bytes() if path.exists() else None
    assert main(argv) == 2
    if how not in ("other options", "other start"):  # those read as another run's
        assert "--recover" in capsys.readouterr().err
    assert (path.read_bytes() if path.exists() else None) == damaged
    capsys.readouterr()
    assert main([*argv, "--recover"]) == 0
    err = capsys.readouterr().err
    assert "rebuilt from checkpoints/step-2" in err
    assert "command, options, hashes of eval data, model, tokenizer, train data" in err
    assert "not rebuilt: what was written later" in err
    assert "resumed after step 2" in err
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("run", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert told(tmp_path / "run" / "metrics.jsonl") == told(tmp_path / "whole" / "metrics.jsonl")
    after = json.loads(path.read_text())
    assert {name: after[name] for name in ("command", "hashes", "started")} == {
        name: before[name] for name in ("command", "hashes", "started")
    }
    if damaged is not None:
        assert path.with_name("run.json.damaged").read_bytes() == damaged
    assert main(argv) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_a_finished_run_is_written_again(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments("dpo", inputs, tmp_path / "run")
    assert main(argv) == 0
    path = tmp_path / "run" / "model" / "model.safetensors"
    good, metrics = path.read_bytes(), told(tmp_path / "run" / "metrics.jsonl")
    (tmp_path / "run" / "run.json").unlink()
    capsys.readouterr()
    assert main(argv) == 2
    assert "run.json is gone" in capsys.readouterr().err
    assert main([*argv, "--recover"]) == 0
    assert path.read_bytes() == good
    assert [row["step"] for row in told(tmp_path / "run" / "metrics.jsonl")] == [row["step"] for row in metrics]


def test_a_whole_record_stays_as_it_is(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    broken_off(argv, monkeypatch)
    assert main([*argv, "--recover"]) == 0
    assert "nothing was rebuilt" in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json.damaged").exists()


@pytest.mark.parametrize("change", ["option", "data", "model"])
def test_another_run_is_not_recovered_from_these_checkpoints(
    change: str,
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    broken_off(argv, monkeypatch).unlink()
    other = list(argv)
    if change == "option":
        other[other.index("--learning-rate") + 1] = "1e-2"
    elif change == "data":
        other[other.index("--data") + 1] = inputs["held_out_demonstrations"]
        other = other[: other.index("--eval-data")] + other[other.index("--max-steps") :]
    else:
        other[other.index("--model") + 1] = write_inputs(tmp_path)["model"]
        config = Path(other[other.index("--model") + 1]) / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 0.125}))
    capsys.readouterr()
    assert main([*other, "--recover"]) == 2
    err = capsys.readouterr().err
    named = {"option": "learning_rate: 0.003", "data": "hash of train data", "model": "hash of model"}[change]
    assert "belongs to another run" in err
    assert named in err
    assert not (tmp_path / "run" / "run.json").exists()


def test_where_nothing_is_proven_it_says_why(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    broken_off(argv, monkeypatch).unlink()
    kept = tmp_path / "run" / "checkpoints" / "step-2"
    as_older_versions_wrote_it(kept)
    assert main([*argv, "--recover"]) == 2
    err = capsys.readouterr().err
    assert "before checkpoints kept a copy of run.json" in err
    assert "command, options, and hashes of data, tokenizer and model" in err
    (kept / "state.json").write_text("{}")
    assert main([*argv, "--recover"]) == 2
    assert "every checkpoint of the run is damaged" in capsys.readouterr().err
    shutil.rmtree(kept.parent)
    (tmp_path / "run" / "run.json").write_text("{")
    assert main([*argv, "--recover"]) == 2
    assert "there is nothing to rebuild" in capsys.readouterr().err
    assert main([*argv[:-1], "5", "--recover", "--output-dir", str(tmp_path / "new")]) == 2
    assert main([*argv, "--recover", "--no-resume"]) == 2
    assert "recover continues the run" in capsys.readouterr().err


def as_older_versions_wrote_it(folder: Path) -> None:
    """Takes the copy of run.json out of a checkpoint, and seals it again."""
    state = json.loads((folder / "state.json").read_text())
    del state["run"]
    (folder / "state.json").write_text(json.dumps(state))
    manifest = json.loads((folder / CHECKPOINT_MANIFEST).read_text())
    path = folder / "state.json"
    manifest["files"]["state.json"] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest["seal"] = _seal(manifest)
    (folder / CHECKPOINT_MANIFEST).write_bytes(_serialise(manifest))
