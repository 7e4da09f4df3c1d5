"""examples/: every pipeline file is one that `assent run` accepts, and no data stands beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from assent.pipelines.plan import read_plan
from tests.support.docs import ROOT

FILES = [
    file for file in sorted((ROOT / "examples").glob("*/*.yaml")) if file.parent.name != "loop"
]  # it has a test of its own


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
@pytest.mark.parametrize("fast", [False, True], ids=["full", "fast"])
def test_a_pipeline_of_the_examples_is_one(file: Path, fast: bool) -> None:
    assert read_plan(file, fast=fast).stages


def test_hh_goes_from_a_new_model_to_an_evaluation_by_its_own_reward_model() -> None:
    plan = read_plan(ROOT / "examples/hh/pipeline.yaml")
    assert [stage.command for stage in plan.stages] == ["new-model", "sft", "reward", "dpo", "ppo", "eval"]
    options = {stage.name: stage.options for stage in plan.stages}
    assert options["ppo"]["reward"] == options["evaluation"]["judge"] == "${reward.model_path}"
    assert options["dpo"]["model"] == options["ppo"]["model"] == "${sft.model_path}"
    held_out = "../shared/data/hh-harmless.test.jsonl.gz"
    assert options["evaluation"]["data"] == options["reward"]["eval_data"] == held_out
    assert all(held_out != options[name].get("data") for name in ("sft", "reward", "dpo", "ppo"))


def test_no_data_stands_among_the_examples() -> None:
    kinds = {path.suffix for path in (ROOT / "examples").rglob("*") if path.is_file()}
    assert kinds - {".pyc"} <= {".yaml", ".md", ".py", ".ipynb"}
