"""--fork RUN@STEP: the new run goes on from another one's checkpoint, records it, and leaves it as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import files_in, replaced, said
from tests.support.models import tiny_model
from tests.support.stages import arguments, interrupted_after, told, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def ran(command: str, inputs: dict[str, str], folder: Path, *more: Any) -> list[Any]:
    return replaced(arguments(command, inputs, folder), *more)


def weights(folder: Path) -> bytes:
    return (folder / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize("command", ["sft", "dpo", "ppo"])
def test_with_the_same_options_a_fork_ends_as_its_parent_and_the_parent_stays(
    command: str, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    assert said(ran(command, inputs, parent, "--save-total-limit", 9), capsys)[0] == 0
    before = files_in(parent)
    status, _, err = said(ran(command, inputs, child, "--fork", f"{parent}@2"), capsys)
    assert status == 0, err
    assert files_in(parent) == before
    assert weights(child) == weights(parent)
    known, found = (told(folder / "metrics.jsonl") for folder in (parent, child))
    assert [row for row in found if "loss" in row] == [row for row in known if "loss" in row]
    record = json.loads((child / "run.json").read_text())
    assert record["parents"] == [str(parent)]
    assert record["facts"]["fork"] == {"run": str(parent), "step": 2}
    assert f"begun with step 2 of {parent}" in err
    assert "resumed after step 2" in err


def test_a_fork_takes_its_own_options_and_resumes_from_its_own_checkpoints(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = tmp_path / "parent"
    assert said(ran("sft", inputs, parent, "--save-total-limit", 9), capsys)[0] == 0
    options = ["--fork", f"{parent}@2", "--learning-rate", 1e-4]
    assert said(ran("sft", inputs, tmp_path / "whole", *options), capsys)[0] == 0
    assert weights(tmp_path / "whole") != weights(parent)
    broken = ran("sft", inputs, tmp_path / "broken", *options)
    with monkeypatch.context() as patch:
        interrupted_after(4, patch)
        assert said(broken, capsys)[0] == 130
    shutil.rmtree(parent / "checkpoints")  # a fork that has begun needs its parent no more
    status, _, err = said(broken, capsys)
    assert status == 0, err
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_a_fork_that_was_killed_while_it_was_made_is_made_again(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from assent.engine import forking

    parent, child = tmp_path / "parent", tmp_path / "child"
    assert said(ran("sft", inputs, parent, "--save-total-limit", 9), capsys)[0] == 0
    argv = ran("sft", inputs, child, "--fork", f"{parent}@2")
    with monkeypatch.context() as patch:
        patch.setattr(forking, "adopt", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert said(argv, capsys)[0] == 130
    assert not list((child / "checkpoints").glob("*")) if (child / "checkpoints").exists() else True
    status, _, err = said(argv, capsys)
    assert status == 0, err
    assert weights(child) == weights(parent)


def test_what_cannot_be_forked_is_refused_and_nothing_is_written(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    assert said(ran("sft", inputs, parent), capsys)[0] == 0
    other = {**inputs, "model": tiny_model(tmp_path / "other", vocab_size=310)}
    for command, of, fork, part in (
        ("sft", inputs, f"{parent}@1", "has no checkpoint of step 1"),
        ("sft", inputs, f"{tmp_path / 'nothing'}@2", "there is no run"),
        ("dpo", inputs, f"{parent}@4", "the run of another command"),
        ("sft", other, f"{parent}@4", "another tokenizer"),
        ("sft", inputs, "parent", "fork"),
    ):
        status, _, err = said(ran(command, of, child, "--fork", fork), capsys)
        assert (status, part in err) == (2, True), err
        assert not child.exists()
    status, _, err = said(ran("sft", inputs, child, "--fork", f"{parent}@4", "--max-steps", 4), capsys)
    assert (status, "no step is left after step 4" in err) == (2, True), err


@pytest.mark.parametrize("changed", ["option", "data", "model"])
def test_a_run_that_is_resumed_with_something_else_is_refused_and_says_what(
    changed: str, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert said(ran("sft", inputs, folder), capsys)[0] == 0
    before = {name: text for name, text in files_in(folder).items() if name != ".lock"}
    other = dict(inputs)
    if changed == "data":
        other["demonstrations"] = str(tmp_path / "other.jsonl")
        text = Path(inputs["demonstrations"]).read_text()
        Path(other["demonstrations"]).write_text(text.replace("plus 3", "plus 33"))
        parts = ["hash of train data"]
    elif changed == "model":
        other["model"] = tiny_model(tmp_path / "other", seed=1)
        parts = ["hash of model"]
    else:
        parts = ["learning_rate: 0.001", "learning_rate: 0.003"]
    argv = ran("sft", other, folder, *(["--learning-rate", "1e-3"] if changed == "option" else []))
    status, _, err = said(argv, capsys)
    assert status == 2
    assert "belongs to another run" in err
    assert [part for part in parts if part not in err] == [], err
    assert {k: v for k, v in files_in(folder).items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }
