"""assent doctor --bundle: what a helper needs, without the user's texts and folders."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from assent.commands import doctor_logs
from assent.commands.doctor_bundle import write_bundle
from assent.diagnosis.case import Case
from assent.diagnosis.examine import examine
from assent.diagnosis.model_rules import model_rules
from assent.diagnosis.probes import Answer, Behaviour
from tests.support.cli import said
from tests.support.diagnosis import dpo_rows, write_run

STAYS = [0.0] * 60


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    return write_run(tmp_path / "bad", dpo_rows(STAYS), loss_type="sigmoid", beta=0.1, learning_rate=1e-9)


def test_a_bundle_holds_no_text_of_the_users(stuck: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(["doctor", stuck, "--bundle", tmp_path / "help.zip"], capsys)
    with zipfile.ZipFile(tmp_path / "help.zip") as bundle:
        names = set(bundle.namelist())
        everything = b"".join(bundle.read(name) for name in names).decode()
    assert names == {"doctor.json", "doctor.txt", "metrics.jsonl", "options.json", "run.json"}
    for secret in ("hidden", "a secret", "private/", str(tmp_path)):
        assert secret not in everything
    assert "nothing_learned" in everything


def test_a_bundle_takes_no_files_place_and_says_where_it_cannot_be(
    stuck: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_logs, "examine", lambda *_: pytest.fail("the report would be lost"))
    before = (stuck / "metrics.jsonl").read_text()
    for place, part in ((stuck / "metrics.jsonl", "exists already"), (tmp_path / "no" / "x.zip", "there is no folder")):
        status, _, err = said(["doctor", stuck, "--bundle", place], capsys)
        assert (status, part in err) == (2, True), err
    assert (stuck / "metrics.jsonl").read_text() == before


def in_bundle(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as bundle:
        return {name: bundle.read(name).decode() for name in bundle.namelist()}


def test_a_bundle_tells_no_folder_address_or_text_of_an_option(tmp_path: Path, capsys: Any) -> None:
    options = {"reward": {"/data/ann/rm": 1.0, "http://ann:pass@10.0.0.5/score": 0.5}, "kl_coef": 0.05,
               "system": "You are the helpful assistant of a secret firm"}  # fmt: skip
    run = write_run(tmp_path / "run", dpo_rows(STAYS), loss_type="sigmoid", beta=0.1, **options)
    said(["doctor", run, "--bundle", tmp_path / "help.zip"], capsys)
    kept = json.loads(in_bundle(tmp_path / "help.zip")["options.json"])
    assert kept["reward"] == {"rm": 1.0, "http://...": 0.5}
    assert kept["system"] == "(46 characters)"
    assert kept["kl_coef"] == 0.05


def test_a_bundle_of_a_policy_quotes_no_answer(tmp_path: Path) -> None:
    answers = [Answer(prompt=f"Karl: What is my {n}th secret?", text=f"? Karl: I am hiding {n}", ended=True)
               for n in range(12)]  # fmt: skip
    asked = Case(models=Behaviour(has_template=True, answers=answers, end_logprobs=[-3.0] * 8), source="model",
                 reading=("rows of /data/ann/rows.jsonl",))  # fmt: skip
    report = examine(asked, model_rules())
    assert "hiding" in report.findings[0].verdict
    lines = write_bundle(tmp_path / "help.zip", "/data/ann/policy", report, doctor_logs.about(asked))
    assert "no prompt and no answer" in lines[0]
    everything = "".join(in_bundle(tmp_path / "help.zip").values())
    for secret in ("hiding", "secret", "Karl", "ann/"):
        assert secret not in everything
    assert "no_instruction_tuning" in everything
    assert "one begins (left out)" in " ".join(everything.split())
