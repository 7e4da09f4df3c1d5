"""A potential through whole runs: what it changes, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assent.cli import main
from assent.models.loading import load_scorer, load_tokenizer, save_model
from tests.support.cli import said
from tests.support.stages import write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    paths = write_inputs(folder)
    save_model(folder / "scorer", load_scorer(paths["model"], seed=3), load_tokenizer(paths["model"]))
    return {**paths, "scorer": str(folder / "scorer")}


def arguments(inputs: dict[str, str], folder: Path, *more: str) -> list[str]:
    argv = ["a2c", "--model", inputs["model"], "--data", inputs["prompts"], "--output-dir", str(folder)]
    argv += [
        "--reward",
        "tests.support.stages:brevity",
        "--total-steps",
        "2",
        "--batch-size",
        "4",
        "--max-length",
        "64",
    ]
    return [*argv, "--max-new-tokens", "6", *more]


def test_a_potential_changes_what_is_learned_and_is_no_part_of_the_score(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    rows = {}
    for name, more in {"shaped": ["--potential", inputs["scorer"]], "plain": []}.items():
        assert main(arguments(inputs, tmp_path / name, *more)) == 0
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows[name] = next(row for row in map(json.loads, lines) if "objective/scores" in row)
    shaped, plain = rows["shaped"], rows["plain"]
    assert shaped["objective/scores"] == plain["objective/scores"]  # the first round is the same sample
    assert abs(shaped["critic/loss"] - plain["critic/loss"]) > 1e-4
    assert shaped["cost/models_resident"] == plain["cost/models_resident"] + 1
    facts = json.loads((tmp_path / "shaped" / "run.json").read_text())
    assert "potential_start" in facts["facts"]["start"]


def test_a_potential_that_cannot_be_read_is_refused(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(arguments(inputs, tmp_path / "run", "--potential", inputs["model"]), capsys)
    assert status == 2
    assert "no score head" in err
    assert not (tmp_path / "run").exists()
