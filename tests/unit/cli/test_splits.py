"""`--split`, `--eval-split` and `--columns` of every command that reads data; part of what a run is."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import datasets
import pytest

import assent.config
from assent.config.options import Options
from tests.support.cli import said
from tests.support.stages import write_inputs

COLUMNS = "question=prompt,good=chosen,bad=rejected"


def pairs(name: str) -> datasets.Dataset:
    rows = [{"question": f"{name} {n}?", "good": f"yes {n}", "bad": f"no {n}"} for n in range(6)]
    return datasets.Dataset.from_list(rows)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    datasets.DatasetDict(train=pairs("train"), other=pairs("other")).save_to_disk(tmp_path / "saved")
    return write_inputs(tmp_path)


def dpo(inputs: dict[str, str], tmp_path: Path, *more: object, columns: str = COLUMNS) -> list[object]:
    argv = ["dpo", "--model", inputs["model"], "--data", tmp_path / "saved", "--output-dir", tmp_path / "run"]
    return [*argv, "--max-length", 64, "--max-steps", 1, "--columns", columns, *more]


def test_splits_and_columns_are_kept_and_are_part_of_the_run(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(dpo(inputs, tmp_path, "--eval-split", "other"), capsys)
    assert status == 0, err
    assert "split train is read; others: other" in err
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    config = manifest["config"]
    assert (config["split"], config["eval_split"]) == (None, "other")
    assert config["columns"] == {"question": "prompt", "good": "chosen", "bad": "rejected"}
    assert any(name.startswith("eval_") for name in manifest["result"]["metrics"])

    status, _, err = said(dpo(inputs, tmp_path, "--eval-split", "other", "--split", "train"), capsys)
    assert status == 0, err
    assert "this run is finished" in err, "the same rows under a name are the same run"
    status, _, err = said(dpo(inputs, tmp_path, "--eval-split", "train", "--split", "other"), capsys)
    assert status == 2
    assert "split: other" in err
    swapped = COLUMNS.replace("chosen", "x").replace("rejected", "chosen").replace("x", "rejected")
    status, _, err = said(dpo(inputs, tmp_path, "--eval-split", "other", columns=swapped), capsys)
    assert status == 2
    assert "belongs to another run" in err
    assert "columns" in err


def test_every_command_that_reads_data_takes_split_and_columns() -> None:
    names = [found.name for found in pkgutil.iter_modules(assent.config.__path__)]
    modules = [importlib.import_module(f"assent.config.{name}") for name in names]
    classes = {
        one for module in modules for one in vars(module).values() if isinstance(one, type) and issubclass(one, Options)
    }
    readers = {one for one in classes if {"data", "model"} <= set(one.model_fields) or "layout" in one.model_fields}
    assert len(readers) > 12
    lacking = {one.__name__ for one in readers if not {"split", "columns"} <= set(one.model_fields)}
    assert lacking == {"NeedsOptions"}, "a base of plan's, which has both itself"


@pytest.mark.parametrize("split", ["train_", "eval"])
def test_an_unknown_split_is_answered_with_those_there_are(
    split: str, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in (["data", "check", tmp_path / "saved", "--columns", COLUMNS], dpo(inputs, tmp_path)):
        status, _, err = said([*argv, "--split", split], capsys)
        assert status == 2
        assert f"has no split '{split}'" in err
        assert "train, other" in err


def test_label_reads_the_split_and_the_columns_of_what_is_judged_or_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {name: [{"q": f"{name} {n}?", "completion": text} for n in range(count) for text in ("yes", "no")]
               for name, count in (("train", 1), ("other", 3))}  # fmt: skip
    for kind, rows in (("answers", answers), ("pairs", {"train": pairs("t").select([0]), "other": pairs("o")})):
        tables = {name: datasets.Dataset.from_list(list(one)) for name, one in rows.items()}
        datasets.DatasetDict(tables).save_to_disk(tmp_path / kind)
    fill = ["label", "--no-serve", "--store", tmp_path / "a.db", "--completions", tmp_path / "answers"]
    status, out, err = said([*fill, "--split", "other", "--columns", "q=prompt"], capsys)
    assert (status, "3 items new" in out + err) == (0, True), err
    status, _, err = said([*fill, "--columns", "q=prompt,topic=system"], capsys)
    assert status == 2
    assert "has no column topic" in err
    imported = ["label", "--store", tmp_path / "b.db", "--import-labels", tmp_path / "pairs", "--columns", COLUMNS]
    status, out, err = said([*imported, "--split", "other", "--json"], capsys)
    assert status == 0, err
    assert json.loads(out)["imported"]["judgements"] == 6
