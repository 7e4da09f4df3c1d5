"""Training data in a memory-mapped file gives the numbers of training data in memory, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assent.stages import mapped_data
from tests.support.cli import replaced, said
from tests.support.models import tiny_model
from tests.support.rows import comparison, demonstrations, read_rows, write_rows
from tests.support.stages import told

COMMON = ["--max-length", 64, "--learning-rate", 3e-3, "--batch-size", 4, "--seed", 5]
MAPPED = ["--max-steps", 2, "--data-storage", "mapped"]
COMMANDS = {
    "sft": ["sft", "--train-on", "each"],
    "dpo": ["dpo", "--loss-type", "sigmoid"],
    "dpo, part of an epoch": ["dpo"],
    "reward": ["reward", "--normalize-rewards"],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_model(folder / "model")
    demonstrations(folder / "demonstrations.jsonl", count=11)
    pairs = [comparison(i) for i in range(11)]
    rows: list[dict[str, Any]] = [
        {
            "prompt": [m.as_dict() for m in pair.prompt],  # type: ignore[union-attr]
            "chosen": [m.as_dict() for m in pair.completions[0]],  # type: ignore[union-attr]
            "rejected": [m.as_dict() for m in pair.completions[1]],  # type: ignore[union-attr]
            "page": i,
        }
        for i, pair in enumerate(pairs)
    ]
    rows[4]["margin"] = 0.5  # a number that only one row has
    rows.insert(6, {**rows[2], "rejected": rows[2]["chosen"]})  # a row that is refused
    write_rows(folder / "pairs.jsonl", rows)
    without = [{name: value for name, value in row.items() if name != "margin"} for row in rows]
    write_rows(folder / "plain.jsonl", without)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_mapped_rows_train_as_rows_in_memory(
    name: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mapped_data, "BLOCK_ROWS", 3)  # fields, refusals and counts come from several blocks
    data = {"sft": "demonstrations", "reward": "pairs"}.get(name, "plain")
    argv = [*COMMANDS[name], *COMMON, "--max-steps", 2 if "part" in name else 6]
    argv += ["--model", inputs / "model", "--data", inputs / f"{data}.jsonl"]
    for storage in ("memory", "mapped"):
        cache = ["--reference-cache", tmp_path / f"reference-{storage}"] if name.startswith("dpo") else []
        out = tmp_path / storage
        status, _, err = said([*argv, *cache, "--data-storage", storage, "--output-dir", out], capsys)
        assert status == 0, err
    folders = tmp_path / "memory", tmp_path / "mapped"
    weights = [(folder / "model/model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    metrics = [told(folder / "metrics.jsonl") for folder in folders]
    assert metrics[0] == metrics[1]
    assert len([row for row in metrics[0] if "loss" in row]) == (2 if "part" in name else 6)


def test_the_same_data_is_tokenized_once_and_other_options_again(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    calls: list[int] = []
    blocks = mapped_data.blocks
    monkeypatch.setattr(mapped_data, "blocks", lambda *args: (calls.append(1), blocks(*args))[1])
    argv = [
        "reward",
        "--model",
        inputs / "model",
        "--data",
        inputs / "pairs.jsonl",
        *COMMON,
        "--data-storage",
        "mapped",
    ]
    notes = []
    for out, more, count in (("a", [], 1), ("b", ["--learning-rate", 1e-4], 1), ("c", ["--max-length", 63], 2)):
        status, _, err = said(replaced(argv, *more, "--output-dir", tmp_path / out), capsys)
        assert (status, len(calls)) == (0, count), err
        notes.append(err)
    said_of_rows = "rows: 11 of 12 used, 0 of them shortened, 1 refused"
    assert all(said_of_rows in err and "refused at loading: 1" in err for err in notes)
    assert all("not read: page (11 rows)" in err for err in notes)
    for damaged in (stores := list((tmp_path / "cache/tokens").rglob("rows.arrow"))):
        damaged.write_bytes(damaged.read_bytes()[:-1])
    assert len(stores) == 2
    for out in ("d", "e"):
        status, _, err = said([*argv, "--output-dir", tmp_path / out], capsys)
        assert status == 0, err
    assert len(calls) == 3  # the one that is read was made again, once
    assert len(read_rows(tmp_path / "d/metrics.jsonl")) == len(read_rows(tmp_path / "a/metrics.jsonl"))


def test_held_out_prompts_are_looked_for_in_mapped_rows_too(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "held-out.jsonl", [read_rows(inputs / "pairs.jsonl")[7]])
    argv = [
        "reward",
        "--model",
        inputs / "model",
        "--data",
        inputs / "pairs.jsonl",
        *COMMON,
        "--data-storage",
        "mapped",
    ]
    argv += ["--eval-data", tmp_path / "held-out.jsonl", "--output-dir", tmp_path / "out"]
    status, _, err = said(argv, capsys)
    assert (status, "prompts of the held-out data are in the training data too" in err) == (2, True), err
    assert "pairs.jsonl:8" in err


@pytest.mark.parametrize(
    "given",
    [["--eval-fraction", 0.3], ["--bootstrap", "--num-heads", 2], ["--supervision", "process", "--loss-type", "bce"]],
)
def test_what_needs_all_rows_in_memory_is_refused(
    given: list[Any], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["reward", "--model", inputs / "model", "--data", inputs / "pairs.jsonl", "--data-storage", "mapped", *given]
    status, _, err = said([*argv, "--output-dir", tmp_path / "out"], capsys)
    assert (status, "needs all rows in memory" in err) == (2, True), err
