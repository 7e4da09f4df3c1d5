"""The benchmarks that are kept for an accelerator run on a CPU, and both sides of the comparison learn the same."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.stages import write_inputs

SCRIPTS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def _json_of(script: str, *arguments: str) -> dict[str, Any]:
    """What the script prints last, run as a user would."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def test_against_a_plain_trainer(inputs: dict[str, str]) -> None:
    found = _json_of(
        "against_trainer.py", "--shape", "tiny", "--tokenizer", inputs["model"], "--data", inputs["comparisons"],
        "--pairs", "8", "--batch-size", "4", "--per-device", "4", "--repeats", "1", "--learning-rate", "1e-3",
    )  # fmt: skip
    for method in ("dpo", "reward"):
        assert found[method]["over"]["trainer_4"]["loss_differs_by"] < 1e-5
        assert found[method]["loss_moves_by"] > 0.05  # so that a difference in what is learned would show


def test_a_whole_ppo_step(inputs: dict[str, str]) -> None:
    found = _json_of(
        "ppo_step.py", "--shape", "tiny", "--tokenizer", inputs["model"], "--data", inputs["prompts"],
        "--rounds", "2", "--batch-size", "4", "--epochs", "1", "--max-prompt", "32", "--new-tokens", "4",
    )  # fmt: skip
    told = found["after_the_first_round"]
    assert sum(told["shares"].values()) == pytest.approx(1)
    assert told["rollout/completion_length"] == 4.0


def test_sampling_is_measured_against_its_bound(inputs: dict[str, str]) -> None:
    found = _json_of(
        "generate.py", "--sample", "--model", inputs["model"], "--data", inputs["comparisons"],
        "--prompts", "4", "--completions", "2", "--new-tokens", "4",
    )  # fmt: skip
    assert (found["tokens"], found["tier"]) == (4 * 2 * 4, "cohorts")
    assert found["share_of_bound"] == pytest.approx(found["tokens_per_s"] / found["tokens_per_s_at_bound"])


@pytest.mark.parametrize("more", [["--bf16"], ["--lora-r", "4"]], ids=["bf16", "lora"])
def test_passes_of_a_step(inputs: dict[str, str], more: list[str]) -> None:
    found = _json_of(
        "passes.py", "--model", inputs["model"], "--data", inputs["comparisons"],
        "--pairs", "8", "--tokens", "64", "128", "--repeats", "1", *more,
    )  # fmt: skip
    names = ["64 tokens", "128 tokens", "one pass at a time", "whole tables", "a cast for each layer"]
    assert list(found["seconds"]) == list(found["speed_over_the_first"]) == names
    assert found["speed_over_the_first"]["64 tokens"] == 1.0


@pytest.mark.parametrize(
    "script", sorted(path.name for path in SCRIPTS.glob("*.py") if not path.name.startswith("trl_"))
)
def test_openmp_is_told_how_to_wait_before_torch_is_loaded(script: str) -> None:
    """trl_*.py run where there is no Assent."""
    nodes = ast.walk(ast.parse((SCRIPTS / script).read_text(encoding="utf-8")))
    imports = sorted((n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)), key=lambda node: node.lineno)
    names = [(n.module or "") if isinstance(n, ast.ImportFrom) else n.names[0].name for n in imports]
    packages = [name.partition(".")[0] for name in names]
    loads_torch = [i for i, name in enumerate(packages) if name in ("torch", "transformers", "accelerate", "peft")]
    if loads_torch:
        assert "assent" in packages[: loads_torch[0]], packages
