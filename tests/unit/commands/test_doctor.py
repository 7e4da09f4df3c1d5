"""assent doctor: findings by weight, what was not checked, exit status, changes, bundles, other runs; no torch."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

import assent
from assent.data.loading import load_groups
from assent.diagnosis.data_rules import data_rules
from assent.diagnosis.model_rules import model_rules
from assent.diagnosis.rules import all_rules
from assent.errors import ConfigError
from tests.support.cli import said
from tests.support.diagnosis import dpo_rows, write_run
from tests.support.docs import ROOT, blocks, first_column
from tests.support.rows import write_rows

LEARNS = [0.02 * i for i in range(60)]
STAYS = [0.0] * 60


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return write_run(tmp_path / "good", dpo_rows(LEARNS), loss_type="sigmoid", beta=0.1, learning_rate=1e-5)


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    return write_run(tmp_path / "bad", dpo_rows(STAYS), loss_type="sigmoid", beta=0.1, learning_rate=1e-9)


def test_a_healthy_run(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(["doctor", healthy], capsys)
    assert status == 0
    assert "loss sigmoid, beta 0.1 (by its configuration)" in " ".join(out.split())
    assert max(map(len, out.splitlines()[1:])) <= 80
    assert "Healthy: " in out
    assert "metrics over 60 steps" in out
    assert "Not checked: " in out
    assert "not logged: eval_loss" in out


def test_a_run_in_which_nothing_is_learned(stuck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(["doctor", stuck], capsys)
    assert status == 1
    assert "FAULT  nothing_learned" in out
    assert "cause: the learning rate is too low" in out
    assert "change: learning_rate 1e-09 -> 1e-07" in out
    assert said(["doctor", stuck, "--fail-on", "fatal"], capsys)[0] == 0
    assert said(["doctor", stuck, "--fail-on", "never"], capsys)[0] == 0


def test_too_few_steps_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", dpo_rows(LEARNS[:2]), loss_type="sigmoid", beta=0.1)
    status, out, _ = said(["doctor", run], capsys)
    assert status == 0
    assert "Cannot be judged yet, because too little was logged" in out
    assert "too few steps: 2 of 10: memorises_epochs, nothing_learned" in out


def test_findings_stand_in_the_order_of_their_weight(tmp_path: Path) -> None:
    rows = [{**row, "grad_norm": 0.0, "rewards/margins": "nan"} for row in dpo_rows(STAYS)]
    run = write_run(tmp_path / "run", rows, loss_type="sigmoid", beta=0.1, learning_rate=1e-9)
    found = assent.doctor(run)["reports"][0]["findings"]
    ranks = [("fatal", "fault", "warning", "info").index(finding["severity"]) for finding in found]
    assert ranks == sorted(ranks)
    assert {"no_gradient", "not_finite"} <= {finding["rule"] for finding in found}


def test_the_document(stuck: Path, healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(["doctor", stuck, healthy, "--json"], capsys)
    document = json.loads(out)
    assert (status, document["command"]) == (1, "doctor")
    bad, good = document["reports"]
    assert (bad["verdict"], good["verdict"]) == ("findings", "healthy")
    finding = bad["findings"][0]
    assert finding["fix"] == {"learning_rate": {"times": 100.0}}
    assert finding["evidence"][0]["metric"] == "loss"
    assert {entry["rule"] for entry in good["not_checked"]} >= {"held_out_rises", "reference_moves"}
    assert assent.doctor(stuck)["exit_status"] == 1


def test_accepted_findings_are_shown_and_do_not_fail(
    stuck: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted = tmp_path / "accepted.yaml"
    accepted.write_text("nothing_learned: a smoke test of the wiring\n")
    status, out, _ = said(["doctor", stuck, "--accepted", accepted], capsys)
    assert status == 0
    assert "accepted: a smoke test of the wiring" in out
    accepted.write_text("nothing_learnt: a typo\n")
    assert "did you mean nothing_learned?" in said(["doctor", stuck, "--accepted", accepted], capsys)[2]
    accepted.write_text("nothing_learned:\n")
    assert "no reason for nothing_learned" in said(["doctor", stuck, "--accepted", accepted], capsys)[2]


def test_the_changed_configuration_is_one_that_the_command_takes(
    stuck: Path, healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = said(["doctor", stuck, "--apply", tmp_path / "fixed.yaml"], capsys)
    assert status == 1
    assert "1 changed: assent dpo --config" in out
    options = yaml.safe_load((tmp_path / "fixed.yaml").read_text())
    assert options["learning_rate"] == 1e-7
    assert options["output_dir"] == f"{stuck}-changed"
    assert options["model"] == "private/start"
    assert "is not written" in said(["doctor", healthy, "--apply", tmp_path / "none.yaml"], capsys)[1]
    assert not (tmp_path / "none.yaml").exists()


def test_beside_a_run_that_worked(stuck: Path, healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(["doctor", stuck, "--against", healthy], capsys)
    assert "learning_rate: 1e-09 here, 1e-05 there" in out
    assert "  rewards/margins: -0.002 here, 1.038 there" in out
    assert "output_dir" not in out
    document = assent.doctor(stuck, against=healthy)
    assert document["against"]["options"] == {"learning_rate": [1e-9, 1e-5]}


def test_the_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(["doctor", "--list-rules"], capsys)
    assert status == 0
    assert all(f"{rule.name}: {rule.title}" in out for rule in all_rules())
    document = assent.doctor(list_rules=True)
    listed = [rule.name for rule in (*all_rules(), *data_rules(), *model_rules())]
    assert [rule["name"] for rule in document["rules"]] == listed
    assert len(set(listed)) == len(listed)


def test_the_rule_of_ten_lines(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(ROOT / "docs/add-a-rule.md", "python")
    assert len([line for line in block.splitlines() if line and not line.startswith("#")]) <= 10
    (tmp_path / "my_rules.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    rules = ("my_rules:GROWS",)
    assert assent.doctor(healthy, rules=rules)["reports"][0]["findings"] == []
    rows = [{**row, "grad_norm": 3.0 ** row["step"]} for row in dpo_rows(LEARNS)]
    grown = write_run(tmp_path / "grown", rows, loss_type="sigmoid", beta=0.1, learning_rate=1e-5)
    (found,) = assent.doctor(grown, rules=rules)["reports"][0]["findings"]
    assert (found["rule"], found["fix"]) == ("gradient_grows", {"learning_rate": {"times": 0.3}})
    with pytest.raises(ConfigError, match="is not a rule"):
        assent.doctor(healthy, rules=("my_rules:check",))


def test_the_page_lists_every_rule() -> None:
    assert first_column(ROOT / "docs/doctor.md", "rule") == [rule.name for rule in all_rules()]
    of_scores = [rule.name for rule in model_rules() if rule.name.startswith("score_")]
    assert first_column(ROOT / "docs/doctor.md", "rule of scores") == of_scores


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "nothing to look at"),
        (["a", "b", "--apply", "x"], "apply is about one run"),
        (["a", "--list-rules"], "targets has no effect with list_rules"),
        (["a", "--refresh-seconds", "3"], "refresh_seconds has no effect without watch"),
        (["a", "--watch", "--bundle", "b.zip"], "bundle needs a look that ends"),
        (["absent"], "there is no absent"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(["doctor", *argv], capsys)
    assert status == 2
    assert part in err


def test_stage_and_settings_are_for_other_trainers_logs(
    healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "run of ours" in said(["doctor", healthy, "--stage", "dpo"], capsys)[2]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in dpo_rows(STAYS)))
    (tmp_path / "theirs.yaml").write_text("pref_beta: 0.3\npref_loss: sigmoid\n")
    _, out, _ = said(["doctor", log, "--settings", tmp_path / "theirs.yaml"], capsys)
    assert "loss sigmoid, beta 0.3 (by its configuration)" in " ".join(out.split())
    assert "did you mean dpo?" in said(["doctor", log, "--stage", "dpoo"], capsys)[2]
    status, _, err = said(["doctor", log, "--apply", tmp_path / "x.yaml"], capsys)
    assert status == 2
    assert "is a log of trl" in err


def test_a_crashed_run_and_one_that_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", dpo_rows(LEARNS), status="running", loss_type="sigmoid", beta=0.1)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [finding["rule"] for finding in assent.doctor(run)["reports"][0]["findings"]] == []
        long_ago = time.time() - 36_000
        os.utime(run / "metrics.jsonl", (long_ago, long_ago))
        (hangs,) = assent.doctor(run)["reports"][0]["findings"]
        assert "it hangs" in hangs["verdict"]
    (crashed,) = assent.doctor(run)["reports"][0]["findings"]
    assert "crashed or was killed" in crashed["verdict"]
    assert crashed["confidence"] == "certain"


def test_a_models_folder_with_a_log_is_read_as_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a trainer leaves behind: the model, its card without results, and a state in each checkpoint."""
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "README.md").write_text("# a model\n")
    assert "give --probe" in said(["doctor", tmp_path], capsys)[2]
    state = tmp_path / "checkpoint-60" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"max_steps": 60, "log_history": dpo_rows(STAYS)}))
    status, out, _ = said(["doctor", tmp_path], capsys)
    assert status == 1
    assert "FAULT  nothing_learned" in out
    assert "the policy beside the log is not looked at: --probe loads it" in " ".join(out.split())
    (tmp_path / "config.json").write_text('{"architectures": ')
    status, _, err = said(["doctor", tmp_path], capsys)
    assert (status, "config.json is not whole JSON" in err) == (2, True)


def test_nothing_heavy_is_imported(stuck: Path) -> None:
    code = f"""
import sys
from assent.cli import main
assert main(["doctor", {str(stuck)!r}]) == 1
sys.exit(3 if {{"torch", "transformers", "numpy", "scipy", "datasets", "peft"}} & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def pairs(count: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"question {i}", "chosen": f"yes: {i} of it", "rejected": f"not: {i} of us"} for i in range(count)
    ]


@pytest.fixture
def with_data(tmp_path: Path) -> tuple[Path, Path]:
    """A run that learns nothing, and its data, in which the first five rows stand twice."""
    data = write_rows(tmp_path / "rows.jsonl", [*pairs(40), *pairs(5)])
    run = write_run(
        tmp_path / "run", dpo_rows(STAYS), loss_type="sigmoid", beta=0.1, learning_rate=1e-9, data=str(data)
    )
    manifest = json.loads((run / "run.json").read_text())
    manifest["hashes"] = {"train data": load_groups(data).sha256}
    (run / "run.json").write_text(json.dumps(manifest))
    return run, data


def test_a_runs_own_data_are_looked_at(with_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, data = with_data
    _, out, _ = said(["doctor", run], capsys)
    assert "FAULT  nothing_learned" in out
    assert "exact duplicates of an earlier group: 5 groups" in out
    assert "metrics over 60 steps and 45 rows of data" in out
    data.write_text(data.read_text() + json.dumps(pairs(41)[-1]) + "\n")
    _, out, _ = said(["doctor", run], capsys)
    assert "its data are not looked at: rows.jsonl has changed since" in out
    assert "duplicates" not in out
    data.unlink()
    assert "there is no file rows.jsonl here" in said(["doctor", run], capsys)[1]


def test_the_change_of_a_run_has_its_filtered_rows(with_data: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    run, _ = with_data
    _, out, _ = said(["doctor", run, "--apply", tmp_path / "fixed.yaml"], capsys)
    options = yaml.safe_load((tmp_path / "fixed.yaml").read_text())
    assert options["data"] == str(tmp_path / "fixed.jsonl")
    assert options["learning_rate"] == 1e-7
    assert [group.prompt for group in load_groups(options["data"])] == [row["prompt"] for row in pairs(40)]
    assert "fixed.jsonl: 40 of 45 rows" in out
    assert "left out: 5 (duplicate_rows)" in out


def test_the_rows_that_findings_leave_standing(with_data: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    _, data = with_data
    refused = tmp_path / "more.jsonl"
    refused.write_text(data.read_text() + json.dumps({"prompt": "same", "chosen": "a", "rejected": "a"}) + "\n")
    _, out, _ = said(["doctor", refused, "--apply", tmp_path / "clean.jsonl"], capsys)
    assert "clean.jsonl: 40 of 46 rows" in out
    assert {finding["rule"] for finding in assent.doctor(tmp_path / "clean.jsonl")["reports"][0]["findings"]} == set()
    _, out, _ = said(["doctor", tmp_path / "clean.jsonl", "--apply", tmp_path / "none.jsonl"], capsys)
    assert "none.jsonl is not written: no finding is mended by leaving rows out" in out
    assert not (tmp_path / "none.jsonl").exists()


def test_a_third_partys_rule_of_data_is_asked_about_a_runs_own(
    with_data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_data_rules.py").write_text(
        "from assent.diagnosis.finding import Finding\n"
        "from assent.diagnosis.rule import Rule\n\n\n"
        "def many(case):\n"
        "    return Finding(severity='warning', confidence='certain', verdict=f'{len(case.data)} rows', evidence=(),\n"
        "                   cause='many', next_action='none')\n\n\n"
        "MANY = Rule(name='many_rows', title='many rows', metrics=(), looks_at='data', check=many)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for target in with_data:  # of the run, as of the file alone
        found = assent.doctor(target, rules=("my_data_rules:MANY",))["reports"][0]["findings"]
        assert [one["verdict"] for one in found if one["rule"] == "many_rows"] == ["45 rows"]


def test_apply_overwrites_nothing(with_data: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    run, data = with_data
    before = data.read_text()
    config = tmp_path / "rows.yaml"  # its filtered rows would be rows.jsonl, which is the data
    for target, apply, part in (
        (data, data, "rows.jsonl exists already"),
        (run, data, "rows.jsonl exists already"),
        (run, config, "rows.jsonl exists already"),
        (run, tmp_path / "both.jsonl", "configuration and rows in one"),
        (run, run / "run.json", "run.json exists already"),
    ):
        status, _, err = said(["doctor", target, "--apply", apply], capsys)
        assert (status, part in err) == (2, True), err
    assert data.read_text() == before
    assert not config.exists()
    assert not (tmp_path / "both.jsonl").exists()


def test_rows_in_the_way_are_seen_before_the_run_is_read(
    with_data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run, _ = with_data
    monkeypatch.setattr("assent.commands.doctor.look", lambda *_: pytest.fail("the report would be lost"))
    status, _, err = said(["doctor", run, "--apply", tmp_path / "rows.yaml"], capsys)
    assert (status, "rows.jsonl exists already" in err) == (2, True), err


def test_a_bundle_names_no_folder_of_the_data(with_data: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    run, _ = with_data
    said(["doctor", run, "--bundle", tmp_path / "help.zip"], capsys)
    with zipfile.ZipFile(tmp_path / "help.zip") as bundle:
        everything = b"".join(bundle.read(name) for name in bundle.namelist()).decode()
    assert "rows.jsonl:41" in everything
    for secret in (str(tmp_path), "question 3", "yes: 3"):
        assert secret not in everything


def test_a_saved_dataset_is_data_as_a_file_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*pairs(40), *pairs(5)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    table = datasets.Dataset.from_list(rows)
    datasets.DatasetDict(train=table, other=table.select([0])).save_to_disk(tmp_path / "saved")
    found = []
    for target in (file, tmp_path / "saved", tmp_path / "saved" / "train"):
        status, out, err = said(["doctor", target, "--json"], capsys)
        assert status in (0, 1), err
        report = json.loads(out)["reports"][0]
        found.append((status, [finding["rule"] for finding in report["findings"]]))
        assert report["reading"] == (["split train is read; others: other"] if target.name == "saved" else [])
    assert found[0] == found[1] == found[2]
    assert any("duplicate" in rule for rule in found[0][1])
