"""assent update and rollback: only what passes its gates is marked, and the mark goes back to what it was."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from assent.models.folders import content_hash
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import comparisons, question, write_rows

JUDGE = f"{__name__}:long"
LIMITS = {"min_win_rate": 0.0, "max_kl_nats": 1e6, "min_slice_win_rate": {"era=release": 0.0}}
Ran = tuple[int, str, str]


def long(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def update_file(folder: Path, **changes: Any) -> dict[str, Any]:
    """DPO from the model `old`, an evaluation beside it, and a gate that lets everything through."""
    evaluation = {"policies": {"new": "${train.model_path}", "old": "old"}, "baseline": "old", "data": "prompts.jsonl",
                  "judge": JUDGE, "slices": ["era"], "samples_per_prompt": 1, "max_new_tokens": 2,
                  "max_length": 128}  # fmt: skip
    gate = {"evaluation": "${evaluation.evaluation}", "policy": "new", **LIMITS, **changes.pop("limits", {})}
    train = {"model": "old", "data": "pairs.jsonl", "learning_rate": 0.01, "max_steps": 1, "batch_size": 4,
             "max_length": 128, **changes.pop("train", {})}  # fmt: skip
    stages = [
        {"name": "train", "command": "dpo", "options": train},
        {"name": "evaluation", "command": "eval", "options": {**evaluation, **changes.pop("evaluation", {})}},
        {"name": "release", "command": "gate", "options": {key: v for key, v in gate.items() if v is not None}},
    ]
    file = {"name": "next", "new": "${train.model_path}", "replaces": "old", "stages": stages, **changes}
    (folder / "update.yaml").write_text(yaml.safe_dump(file))
    return file


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    tiny_model(tmp_path / "old")
    comparisons(tmp_path / "pairs.jsonl")
    rows = [{"prompt": question(n), "era": "new" if n % 2 else "release"} for n in range(24)]
    write_rows(tmp_path / "prompts.jsonl", rows)
    update_file(tmp_path)
    return tmp_path


UPDATE = ["update", "update.yaml", "--output-dir", "out"]


def mark(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "releases" / "release.json").read_text())


def test_a_model_that_passes_its_gates_is_released_and_a_rollback_returns_to_the_one_before(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = content_hash("old")
    status, out, err = said(UPDATE, capsys)
    assert status == 0, err
    assert "reference in training: the release, old" in out
    assert "at least 0 wanted: kept" in out
    written = mark(place)
    first, second = written["releases"]
    assert (first["model"], first["content_hash"], first["parent"]) == ("../old", old, None)
    assert (second["content_hash"], second["parent"]) == (content_hash("out/train/model"), 1)
    assert (place / "releases" / written["model"]).resolve() == place / "out" / "train" / "model"
    assert written["content_hash"] == second["content_hash"] != old
    assert {check["what"] for check in second["gates"]} >= {"win rate", "KL to the reference, nats"}

    before = (place / "releases" / "release.json").read_bytes()
    status, out, err = said([*UPDATE, "--json"], capsys)  # again: nothing is trained, nothing is marked twice
    assert (status, json.loads(out)["new"]) == (0, False), err
    assert (place / "releases" / "release.json").read_bytes() == before

    status, out, err = said(["rollback", "--json"], capsys)
    assert status == 0, err
    assert (json.loads(out)["model"], json.loads(out)["from"]) == ("old", 2)
    assert (mark(place)["content_hash"], mark(place)["release"], len(mark(place)["releases"])) == (old, 1, 2)
    assert [move["what"] for move in mark(place)["moves"]] == ["update", "update", "rollback"]
    assert (place / "out" / "train" / "model" / "model.safetensors").is_file()
    status, _, err = said(["rollback"], capsys)
    assert (status, "has no parent" in err) == (2, True)

    status, _, err = said(UPDATE, capsys)  # what was rolled back comes back only where it is asked for
    assert (status, "was rolled back on" in err) == (2, True)
    status, _, err = said([*UPDATE, "--again"], capsys)
    assert (status, mark(place)["release"]) == (0, 3), err
    assert mark(place)["releases"][2]["parent"] == 1


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"min_win_rate": 1.0}, "win rate: "),
        ({"max_kl_nats": 1e-9}, "KL to the reference, nats: "),
        ({"min_slice_win_rate": {"era=release": 1.0}}, "win rate where era=release: "),
        ({"min_slice_win_rate": {"era=nowhere": 0.0}}, "win rate where era=nowhere: not measured"),
    ],
)
def test_a_gate_that_closes_ends_with_status_1_and_marks_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], limits: dict[str, Any], reason: str
) -> None:
    update_file(place, limits=limits)
    status, out, err = said(UPDATE, capsys)
    assert (status, out, reason in err) == (1, "", True), err
    assert (place / "out" / "train" / "model").is_dir()
    assert not (place / "releases" / "release.json").exists()
    assert (place / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": {"min_win_rate": None}}, "no gate against the release with min_win_rate"),
        ({"limits": {"max_kl_nats": None}}, "with max_kl_nats"),
        ({"limits": {"min_slice_win_rate": {}}}, "with max_safety or min_slice_win_rate"),
        ({"limits": {"policy": "old"}}, "gates against it: none"),
        ({"evaluation": {"baseline": "new"}}, "gates against it: none"),
        ({"evaluation": {"reference": "new"}}, "gates against it: none"),
        ({"replaces": "older"}, "gates against it: none"),
        ({"new": "old"}, "names no stage that makes a model"),
        ({"new": "${evaluation.table}"}, "names no stage that makes a model"),
        ({"new": "${evaluation.model_path}"}, "names no stage that makes a model"),
        ({"old": "old"}, "unknown key"),
    ],
)
def test_gates_that_do_not_compare_with_the_release_are_refused_before_anything_runs(
    place: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    update_file(place, **changes)
    status, _, err = said(UPDATE, capsys)
    assert (status, message in err) == (2, True), err
    assert not (place / "out").exists()


def changed(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": "touched"}))


def test_files_that_changed_since_their_release_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(UPDATE, capsys)[0] == 0
    before = (place / "releases" / "release.json").read_bytes()
    changed(place / "old")
    status, _, err = said(["rollback"], capsys)
    assert (status, "the files of old have changed since it was released" in err) == (2, True), err
    assert (place / "releases" / "release.json").read_bytes() == before

    new = os.path.join("out", "train", "model")
    evaluation = {"policies": {"new": "${train.model_path}", "old": new}}
    update_file(place, name="third", replaces=new, train={"model": new}, evaluation=evaluation)
    changed(place / new)
    status, _, err = said(["update", "update.yaml", "--output-dir", "out3"], capsys)
    assert (status, f"the files of {new} have changed" in err) == (2, True), err
    assert not (place / "out3").exists()


def test_another_model_than_the_released_one_is_not_replaced(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(UPDATE, capsys)[0] == 0
    status, _, err = said(["update", "update.yaml", "--output-dir", "out2"], capsys)  # still replaces `old`
    assert (status, "does not replace what is released" in err) == (2, True), err
    assert not (place / "out2").exists()


def test_what_another_process_released_meanwhile_is_not_overwritten(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from assent.commands import update as module

    run = module.run_pipeline

    def slow(plan: Any, **options: Any) -> Any:
        """While it trains, another update of the same release ends."""
        monkeypatch.setattr(module, "run_pipeline", run)
        assert said(["update", "update.yaml", "--output-dir", "other"], capsys)[0] == 0
        return run(plan, **options)

    monkeypatch.setattr(module, "run_pipeline", slow)
    status, _, err = said(UPDATE, capsys)
    assert (status, "does not replace what is released" in err) == (2, True), err
    assert len(mark(place)["releases"]) == 2


def test_a_damaged_mark_is_an_error(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "releases").mkdir()
    for text in ("[]", "{}", '{"format": 1, "releases": [], "moves": []}', '{"format": 2}', "{"):
        (place / "releases" / "release.json").write_text(text)
        status, _, err = said(["rollback"], capsys)
        assert (status, "release.json is damaged" in err) == (2, True), (text, err)
    status, _, err = said(["rollback", "nowhere"], capsys)
    assert (status, "nothing is released in nowhere" in err) == (2, True)
    assert not (place / "nowhere").exists()


def test_a_reference_that_is_not_the_release_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model(place / "elsewhere", seed=1)
    update_file(place, train={"reference": "elsewhere"})
    status, out, err = said(UPDATE, capsys)
    assert status == 0, err
    assert "reference in training: elsewhere, which is not the release" in out
    assert mark(place)["releases"][1]["reference"] == "elsewhere, which is not the release"
