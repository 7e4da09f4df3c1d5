"""The demo's pipeline from end to end, as small as it goes: its table and report, and what a second run repeats."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from tests.support.cli import said

SHRUNK = {
    "world.num_demonstrations": 24,
    "world.num_prompts": 8,
    "world.num_test_prompts": 6,
    "sft.batch_size": 12,
    "labels.num_pairs": 16,
    "labels.num_test_pairs": 8,
    "reward.batch_size": 8,
    "dpo.batch_size": 8,
    "ppo.total_steps": 1,
    "ppo.batch_size": 4,
    "ppo.num_completions": 1,
    "evaluation.samples_per_prompt": 1,
}
STAGES = ["world", "sft", "labels", "reward", "dpo", "ppo", "evaluation"]


def finished(record: Path) -> dict[str, str]:
    """When each stage was finished."""
    return {stage["name"]: stage["finished_at"] for stage in json.loads(record.read_text())["stages"]}


def ran(err: str) -> list[str]:
    """The stages that a run started, in order."""
    return [line.split(": ")[1].split()[0] for line in err.splitlines() if line.startswith("stage ") and "(" in line]


def test_the_demo_ends_in_a_table_and_a_report_and_repeats_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "demo"
    pipeline = str(files("assent.commands") / "demo.yaml")
    overrides = [part for name, value in SHRUNK.items() for part in ("--set", f"{name}={value}")]
    argv = ["run", pipeline, "--fast", "--output-dir", folder, *overrides]

    status, out, err = said(argv, capsys)
    assert status == 0, err
    assert ran(err) == STAGES
    for policy in ("base", "sft", "dpo", "ppo", "best-of-16"):
        assert f"\n{policy} " in out, out
    assert "noisy labels allow" in out  # beside the reward model
    assert str(folder / "report.html") in out
    assert "<svg" in (folder / "report.html").read_text(encoding="utf-8")
    for stage in ("sft", "reward", "dpo", "ppo"):
        last = json.loads((folder / stage / "metrics.jsonl").read_text().splitlines()[-1])
        assert (folder / stage / "model" / "model.safetensors").exists()
        costs = json.loads((folder / stage / "run.json").read_text())["result"]["metrics"]
        assert {"cost/labels", "cost/completions_sampled", "cost/reward_calls", "cost/flops"} <= set(costs), last
        assert (costs["cost/labels"] > 0) == (stage != "ppo")  # demonstrations and comparisons; prompts cost none

    first = finished(folder / "pipeline.json")
    status, again, err = said(argv, capsys)
    assert (status, again, ran(err)) == (0, out, [])
    assert finished(folder / "pipeline.json") == first

    shutil.rmtree(folder / "dpo")
    status, again, err = said(argv, capsys)
    assert status == 0, err
    assert ran(err)[0] == "dpo"
    assert set(ran(err)) <= {"dpo", "evaluation"}  # nothing that stands before it, nor beside it
    assert (folder / "dpo" / "model" / "model.safetensors").exists()
    assert again.splitlines()[:8] == out.splitlines()[:8]  # the same policy again: the same table
