"""The training commands with a real, tiny model: what they write, what resumes, and the same from Python."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import assent
from assent.data.loading import load_groups
from assent.engine.checkpoint import latest_verified
from assent.errors import ConfigError
from assent.runs.progress import Silent
from tests.support.cli import files_in, said
from tests.support.models import tiny_model
from tests.support.rows import comparisons, demonstrations, read_rows

TRAINING = ["--max-steps", 4, "--batch-size", 2, "--max-length", 64, "--learning-rate", "1e-3", "--device", "cpu"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    demonstrations(folder / "demonstrations.jsonl")
    comparisons(folder / "comparisons.jsonl")
    tiny_model(folder / "model")
    return folder


def options(shared: Path, out: Path, data: str = "comparisons.jsonl") -> list[object]:
    return ["--model", shared / "model", "--data", shared / data, "--output-dir", out]


def test_a_disk_that_fills_is_status_3_and_the_run_goes_on_as_if_nothing_had_been(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["sft", *options(shared, tmp_path / "full", "demonstrations.jsonl"), *TRAINING, "--save-steps", 1]
    from assent.engine import checkpoint

    real = checkpoint.fsync

    def fills(path: Path) -> None:
        if latest_verified(tmp_path / "full") is not None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "fsync", fills)
        status, out, err = said(argv, capsys)
    assert (status, out) == (3, "")
    assert "No space left" in err
    assert "Traceback" not in err
    stands = latest_verified(tmp_path / "full")
    assert stands is not None
    assert stands.step == 1
    status, _, err = said(argv, capsys)
    assert status == 0
    assert "resumed after step 1" in err
    whole = ["sft", *options(shared, tmp_path / "whole", "demonstrations.jsonl"), *TRAINING, "--save-steps", 1]
    assert said(whole, capsys)[0] == 0
    weights = [files_in(tmp_path / name / "model")["model.safetensors"] for name in ("full", "whole")]
    assert weights[0] == weights[1]


def test_python_does_what_the_command_does(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = said(["dpo", *options(shared, tmp_path / "cli"), *TRAINING, "--beta", 0.2, "--json"], capsys)
    assert status == 0
    document = json.loads(out)
    given: dict[str, Any] = {"max_steps": 4, "batch_size": 2, "max_length": 64, "learning_rate": 1e-3, "device": "cpu"}
    given |= {"model": shared / "model", "beta": 0.2, "progress": Silent()}
    result = assent.dpo(data=shared / "comparisons.jsonl", **given)
    assert result.output_dir.parent == Path("runs")
    assert result.steps == document["steps"] == 4
    for name in ("loss", "rewards/margins", "logps/chosen"):
        assert result.metrics[name] == document["metrics"][name], name
    assert files_in(result.model_path)["model.safetensors"] == files_in(tmp_path / "cli" / "model")["model.safetensors"]
    assert result.report().read_text().startswith("<!")
    again = assent.dpo(data=shared / "comparisons.jsonl", **given)  # the same call finds its finished run
    assert (again.output_dir, again.metrics) == (result.output_dir, result.metrics)
    records = assent.dpo(data=load_groups(shared / "comparisons.jsonl"), **given)
    assert records.output_dir != result.output_dir
    assert records.metrics["loss"] == result.metrics["loss"]
    lines = (shared / "comparisons.jsonl").read_text().splitlines()
    rows = assent.dpo(data=[json.loads(line) for line in lines], **given)
    assert rows.metrics["loss"] == result.metrics["loss"]
    with pytest.raises(ConfigError, match="unknown option: bta"):
        assent.dpo(model="m", data="d", bta=0.2)


def test_best_of_n_keeps_the_best_by_the_reward_and_its_files_are_read_again(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = tmp_path / "rewards_of_this_test.py"
    reward.write_text("def length(prompts, completions):\n    return [len(text) for text in completions]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sampling = ["--max-new-tokens", 6, "--max-length", 64, "--seed", 3, "--device", "cpu"]
    best = ["best-of-n", *options(shared, tmp_path / "best"), *sampling, "--n", 5]
    status, out, _ = said([*best, "--reward", "rewards_of_this_test:length", "--json"], capsys)
    assert status == 0
    document = json.loads(out)
    chosen = read_rows(document["completions"])
    groups = load_groups(document["candidates"])
    assert groups.layout == "scores"
    assert len(chosen) == len(groups) == 6
    for row, group in zip(chosen, groups, strict=True):
        assert group.preference is not None
        assert group.preference.scores is not None
        lengths = [len(completion[0].content) for completion in group.completions]
        assert [float(n) for n in lengths] == list(group.preference.scores)
        assert len(row["completion"][0]["content"]) == row["score"] == max(lengths)
    curve = [point["score"]["value"] for point in document["curve"]]
    assert len(curve) == 5
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(document["metrics"]["mean_reward"])
    assert (document["n"], document["gain_reached"]) == (5, None)
    assert document["metrics"]["cost/reward_calls"] == document["metrics"]["cost/completions_sampled"] == 30

    sample = ["sample", *options(shared, tmp_path / "sample"), *sampling, "--num-completions", 5]
    assert said(sample, capsys)[0] == 0
    drawn = read_rows(tmp_path / "sample" / "completions.jsonl")
    texts = [completion[0].content for group in groups for completion in group.completions]
    assert [row["completion"][0]["content"] for row in drawn] == texts  # the same seed draws the same completions
    same = assent.sample(
        model=shared / "model", data=shared / "comparisons.jsonl", output_dir=tmp_path / "sample", num_completions=5,
        max_new_tokens=6, max_length=64, seed=3, device="cpu", progress=Silent(),
    )  # fmt: skip
    assert same["completions"] == str(tmp_path / "sample" / "completions.jsonl")
    before = files_in(tmp_path / "sample")
    assert "finished" in said(sample, capsys)[2]
    assert files_in(tmp_path / "sample").keys() == before.keys()


def test_an_evaluation_is_not_repeated_and_another_needs_another_folder(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(shared / "model", model)
    argv = ["eval", "--policies.a", shared / "model", "--policies.b", model, "--baseline", "a"]
    argv += ["--judge", "tests.support.stages:brevity", "--data", shared / "comparisons.jsonl", "--num-prompts", 2]
    argv += ["--max-length", 64, "--max-new-tokens", 4, "--samples-per-prompt", 1, "--output-dir", tmp_path / "out"]
    status, first, err = said([*argv, "--json"], capsys)
    assert status == 0, err
    before = files_in(tmp_path / "out")
    assert {"evaluation.json", "table.txt"} < set(before)
    status, again, err = said([*argv, "--json"], capsys)
    assert (status, json.loads(again)) == (0, json.loads(first))
    assert "nothing to do" in err
    assert files_in(tmp_path / "out") == before
    assert said(["report", tmp_path / "out"], capsys)[0] == 0
    before = files_in(tmp_path / "out")
    status, _, err = said([*argv, "--seed", 1], capsys)
    assert (status, "--seed" in err or "seed" in err) == (2, True)
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    status, _, err = said(argv, capsys)
    assert (status, "hash of policy b" in err) == (2, True)
    assert files_in(tmp_path / "out") == before


def test_the_reports_command_writes_one_page(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(["reward", *options(shared, tmp_path / "reward"), *TRAINING], capsys)[0] == 0
    status, out, _ = said(["report", tmp_path / "reward"], capsys)
    assert (status, out) == (0, f"report: {tmp_path}/reward/report.html\n")
    assert (tmp_path / "reward" / "report.html").stat().st_size > 1000
    assert said(["report", tmp_path], capsys)[0] == 2
