"""The public functions take data and functions from memory, and a run of them is found again by its content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

import assent
from assent.errors import RunFolderError
from assent.runs.progress import Silent
from tests.support.rows import read_rows
from tests.support.stages import write_inputs


class Lines(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    return write_inputs(tmp_path)


def options(inputs: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"model": inputs["model"], "max_length": 64, "batch_size": 4, "device": "cpu", "progress": Silent(), **more}


def test_a_table_a_frame_and_rows_are_the_run_of_the_file(inputs: dict[str, str]) -> None:
    rows = read_rows(inputs["comparisons"])
    given = options(inputs, max_steps=2)
    of_file = assent.dpo(data=inputs["comparisons"], **given)
    found = {
        name: assent.dpo(data=data, **given)
        for name, data in {
            "rows": rows,
            "table": datasets.Dataset.from_list(rows),
            "splits": datasets.DatasetDict(train=datasets.Dataset.from_list(rows)),
        }.items()
    }
    assert {result.metrics["loss"] for result in found.values()} == {of_file.metrics["loss"]}
    assert found["rows"].output_dir == found["table"].output_dir, "the same content is the same run"
    manifest = json.loads((found["rows"].output_dir / "run.json").read_text())
    assert manifest["config"]["data"].startswith(f"{len(rows)} rows in memory, SHA-256 ")
    assert manifest["hashes"]["train data"].startswith(manifest["config"]["data"].rpartition(" ")[2])


def test_a_run_goes_on_with_the_same_content_only(inputs: dict[str, str], tmp_path: Path) -> None:
    rows = read_rows(inputs["comparisons"])
    given = options(
        inputs, max_steps=2, output_dir=tmp_path / "run", eval_data=read_rows(inputs["held_out_comparisons"])
    )
    first = assent.dpo(data=rows, **given)
    progress = Lines()
    again = assent.dpo(data=list(rows), **{**given, "progress": progress})
    assert again.metrics == first.metrics
    assert any("this run is finished" in line for line in progress.said)
    with pytest.raises(RunFolderError, match="belongs to another run"):
        assent.dpo(data=rows[:-1], **given)


def test_a_frame_has_columns_of_other_names(inputs: dict[str, str]) -> None:
    frame = pandas.DataFrame([{"q": f"{n}?", "good": f"yes {n}", "bad": f"no {n}"} for n in range(6)])
    columns = {"q": "prompt", "good": "chosen", "bad": "rejected"}
    progress = Lines()
    result = assent.dpo(data=frame, columns=columns, **options(inputs, max_steps=1, progress=progress))
    assert result.steps == 1
    assert any("q as prompt" in line for line in progress.said)


def test_a_function_is_a_reward_and_a_judge(inputs: dict[str, str], tmp_path: Path) -> None:
    called = []

    def brief(prompts: list[Any], completions: list[str]) -> list[float]:
        called.append(len(completions))
        return [-float(len(text)) for text in completions]

    prompts = read_rows(inputs["prompts"])
    given = options(inputs, total_steps=1, max_new_tokens=4, output_dir=tmp_path / "ppo")
    assert assent.rloo(data=prompts, reward=brief, **given).steps == 1
    assert called
    config = json.loads((tmp_path / "ppo" / "run.json").read_text())["config"]
    assert config["reward"].startswith("given_in_python:brief_")
    assert assent.rloo(data=prompts, reward=brief, **given).steps == 1
    with pytest.raises(RunFolderError, match="reward"):
        assent.rloo(data=prompts, reward=lambda prompts, completions: [0.0] * len(completions), **given)

    called.clear()
    table = assent.evaluate(
        policies={"a": inputs["model"], "b": inputs["model"]},
        baseline="a",
        data=prompts,
        judge=brief,
        num_prompts=2,
        samples_per_prompt=1,
        max_new_tokens=4,
        progress=Silent(),
    )
    assert sum(called) >= 4
    assert any("brief" in line or "score" in line for line in table["lines"])
