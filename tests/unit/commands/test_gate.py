"""A gate in a pipeline: it lets the next stage run, or stops everything with exit status 1, and the report says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from assent.models.folders import content_hash
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import comparisons
from tests.unit.planning.test_gates import EVALUATION


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A gate on the KL of an evaluation, and a stage after it that does not name the gate."""
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    comparisons(tmp_path / "pairs.jsonl", count=10)
    options = {"evaluation": str(tmp_path / "evaluation.json"), "policy": "trained", "max_kl_nats": "${budget}"}
    after = {
        "name": "after",
        "command": "data-split",
        "options": {"file": str(tmp_path / "pairs.jsonl"), "fraction": 0.3},
    }
    stages = [{"name": "release", "command": "gate", "options": options}, after, {**after, "name": "beside"}]
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"name": "gated", "variables": {"budget": 5.0}, "stages": stages}))
    return path


def test_an_open_gate_lets_the_next_stage_run(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(["run", file, "--output-dir", tmp_path / "out"], capsys)
    assert status == 0, err
    assert "4 (upper end 5), at most 5 wanted: kept" in out
    record = json.loads((tmp_path / "out" / "release" / "gate.json").read_text())
    assert record["passed"]
    assert (tmp_path / "out" / "after" / "pairs.train.jsonl").is_file()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_closed_gate_stops_the_pipeline_and_the_report_says_why(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: int
) -> None:
    run = ["run", file, "--output-dir", tmp_path / "out", "--jobs", jobs, "--set", "budget=4.5"]
    status, out, err = said(run, capsys)
    assert (status, out) == (1, "")
    reason = "KL to the reference, nats: 4 (upper end 5), at most 4.5 wanted: not kept"
    assert reason in err
    assert not (tmp_path / "out" / "after").exists()
    assert not (tmp_path / "out" / "beside").exists()
    assert not (tmp_path / "out" / "release").exists()
    assert reason in (tmp_path / "out" / "report.html").read_text()
    record = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert reason in record["stages"][0]["fault"]
    status, _, err = said(["run", file, "--output-dir", tmp_path / "out"], capsys)  # with the file's own budget
    assert status == 0, err
    assert reason not in (tmp_path / "out" / "report.html").read_text()


def test_a_gate_stays_shut_until_somebody_has_signed_for_this_very_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, signature = tiny_model(tmp_path / "model"), tmp_path / "signed.yaml"
    file = tmp_path / "pipeline.yaml"
    options = {"model": model, "sign_off": str(signature)}
    file.write_text(yaml.safe_dump({"name": "s", "stages": [{"name": "g", "command": "gate", "options": options}]}))
    run = ["run", file, "--output-dir", tmp_path / "out"]
    status, _, err = said(run, capsys)
    assert status == 1
    assert f"nobody has signed: write {signature}" in err
    assert content_hash(model) in err
    signed = {"signed_by": "Ada", "date": "2026-11-30", "model": "0" * 64}
    for given, expected, message in (
        (signed, 1, "another model"),
        ({**signed, "signed_by": ""}, 2, "lacks signed_by"),
        ({**signed, "model": content_hash(model)}, 0, ""),
    ):
        signature.write_text(yaml.safe_dump(given))
        status, out, err = said(run, capsys)
        assert (status, message in err) == (expected, True), err
    assert "signed by Ada" in out


def test_what_is_no_evaluation_is_bad_input(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evaluation.json").write_text("[]")
    status, _, err = said(["run", file, "--output-dir", tmp_path / "out"], capsys)
    assert status == 2
    assert "is no evaluation" in err
