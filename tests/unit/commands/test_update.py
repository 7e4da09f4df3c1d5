"""assent update and rollback: only what passes its gates is marked, and the mark goes back to what it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from assent.cli import main
from assent.commands import update as update_command
from assent.models.folders import content_hash
from assent.pipelines.update_file import read_update
from assent.runs.folder import lock_folder
from assent.runs.release import Mark
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import comparisons, question, write_rows

JUDGE = f"{__name__}:long"
LIMITS = {"min_win_rate": 0.0, "max_kl_nats": 1e6, "min_slice_win_rate": {"era=release": 0.0}}


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


def write_place(folder: Path) -> None:
    tiny_model(folder / "old")
    comparisons(folder / "pairs.jsonl")
    rows = [{"prompt": question(n), "era": "new" if n % 2 else "release"} for n in range(24)]
    write_rows(folder / "prompts.jsonl", rows)
    update_file(folder)


UPDATE = ["update", "update.yaml", "--output-dir", "out"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the update has run: the tests work in copies of it."""
    folder = tmp_path_factory.mktemp("update")
    write_place(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ASSENT_CACHE", str(folder / "cache"))
        assert main(UPDATE) == 0
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    return folder


def mark(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "releases" / "release.json").read_text())


def test_a_model_that_passes_its_gates_is_released_and_a_rollback_returns_to_the_one_before(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, written = content_hash("old"), mark(place)
    first, second = written["releases"]
    assert (first["model"], first["content_hash"], first["parent"]) == ("../old", old, None)
    assert (second["content_hash"], second["parent"]) == (content_hash("out/train/model"), 1)
    assert (place / "releases" / written["model"]).resolve() == place / "out" / "train" / "model"
    assert written["content_hash"] == second["content_hash"] != old
    assert [check["what"] for check in second["gates"]] == [
        "KL to the reference, nats", "win rate", "win rate where era=release",
    ]  # fmt: skip
    assert second["reference"] == "the release, old"

    before = (place / "releases" / "release.json").read_bytes()
    status, out, err = said(UPDATE, capsys)  # again: nothing is trained, nothing is marked twice
    assert status == 0, err
    assert "it was already, since" in out
    assert "reference in training: the release, old" in out
    assert "at least 0 wanted: kept" in out
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
    shutil.rmtree("releases")
    shutil.rmtree("out/release")
    update_file(place, limits=limits)
    status, out, err = said(UPDATE, capsys)
    assert (status, out, reason in err) == (1, "", True), err
    assert "train is already finished" in " ".join(err.split())
    assert (place / "out" / "train" / "model").is_dir()
    assert not (place / "releases" / "release.json").exists()
    assert reason in (place / "out" / "report.html").read_text()


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
        (
            {"replaces": "older", "evaluation": {"policies": {"new": "${train.model_path}", "old": "older"}}},
            "a folder that",
        ),
        ({"new": "old"}, "names no stage that makes a model"),
        ({"new": "${evaluation.table}"}, "names no stage that makes a model"),
        ({"new": "${evaluation.model_path}"}, "names no stage that makes a model"),
        ({"old": "old"}, "unknown option: old"),
    ],
)
def test_gates_that_do_not_compare_with_the_release_are_refused_before_anything_runs(
    place: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    update_file(place, **changes)
    status, _, err = said(["update", "update.yaml", "--output-dir", "out2"], capsys)
    assert (status, message in err) == (2, True), err
    assert not (place / "out2").exists()


def changed(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": "touched"}))


def test_files_that_changed_since_their_release_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (place / "releases" / "release.json").read_bytes()
    changed(place / "old")
    status, _, err = said(["rollback"], capsys)
    assert (status, "the files of old have changed since it was released" in err) == (2, True), err
    assert (place / "releases" / "release.json").read_bytes() == before

    new = "out/train/model"
    evaluation = {"policies": {"new": "${train.model_path}", "old": new}}
    update_file(place, name="third", replaces=new, train={"model": new}, evaluation=evaluation)
    changed(place / new)
    status, _, err = said(["update", "update.yaml", "--output-dir", "out3"], capsys)
    assert (status, f"the files of {new} have changed" in err) == (2, True), err
    assert not (place / "out3").exists()


def test_another_model_than_the_released_one_is_not_replaced(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(["update", "update.yaml", "--output-dir", "out2"], capsys)  # still replaces `old`
    assert (status, "does not replace what is released" in err) == (2, True), err
    assert not (place / "out2").exists()


def test_what_another_process_released_meanwhile_is_not_overwritten(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree("releases")
    other = Path(tiny_model(place / "other", seed=1))
    run = update_command.run_pipeline

    def slow(*arguments: Any, **options: Any) -> Any:
        """While it runs, another update of the same release ends."""
        first = Mark(Path("releases"), (), ()).with_release(Path("old"), content_hash("old"))
        Path("releases").mkdir()
        first.with_release(other, content_hash(other)).write()
        return run(*arguments, **options)

    monkeypatch.setattr(update_command, "run_pipeline", slow)
    status, _, err = said(UPDATE, capsys)
    assert (status, "does not replace what is released" in err) == (2, True), err
    assert len(mark(place)["releases"]) == 2


def test_what_was_rolled_back_while_an_update_ran_again_is_not_called_released(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = update_command.run_pipeline

    def slow(*arguments: Any, **options: Any) -> Any:
        """While it finds all stages finished, somebody rolls back."""
        assert main(["rollback"]) == 0
        return run(*arguments, **options)

    monkeypatch.setattr(update_command, "run_pipeline", slow)
    status, _, err = said(UPDATE, capsys)
    assert (status, "was rolled back on" in err) == (2, True), err
    assert mark(place)["release"] == 1


def test_a_second_cycle_leaves_the_folder_of_the_released_model_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = "out/train/model"
    update_file(place, replaces=new, train={"model": new}, evaluation={"policies": {"new": "${train.model_path}",
                                                                                    "old": new}})  # fmt: skip
    before = (place / "releases" / "release.json").read_bytes()
    status, _, err = said(UPDATE, capsys)
    assert (status, "give another --output-dir, and delete nothing there" in " ".join(err.split())) == (2, True), err
    shutil.move("out/train/model", "kept")  # the same folder, of another release
    update_file(place, replaces="kept", train={"model": "kept"}, evaluation={"policies": {"new": "${train.model_path}",
                                                                                          "old": "kept"}})  # fmt: skip
    status, _, err = said(UPDATE, capsys)
    assert (status, "does not replace what is released" in err) == (2, True), err
    assert (place / "releases" / "release.json").read_bytes() == before


def test_who_waits_for_the_mark_is_told_the_option_that_names_its_folder(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_command, "PATIENCE_SECONDS", 0)
    with lock_folder(place / "releases"):
        for command, option in ((UPDATE, "--releases"), (["rollback"], "FOLDER")):
            status, _, err = said(command, capsys)
            assert (status, f"or choose another {option}" in " ".join(err.split())) == (2, True), err


def test_a_damaged_mark_is_an_error(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("[]", "{}", '{"format": 1, "releases": [], "moves": []}', '{"format": 2}', "{"):
        (place / "releases" / "release.json").write_text(text)
        status, _, err = said(["rollback"], capsys)
        assert (status, "release.json is damaged" in err) == (2, True), (text, err)
    status, _, err = said(["rollback", "nowhere"], capsys)
    assert (status, "nothing is released in nowhere" in err) == (2, True)
    assert not (place / "nowhere").exists()


@pytest.mark.parametrize(
    ("train", "said_as"),
    [
        ({}, "the release, old"),
        ({"reference": "./old"}, "the release, ./old"),
        ({"reference": "elsewhere"}, "elsewhere, which is not the release"),
        ({"reference": "logged"}, "the log-probabilities that the logs hold"),
    ],
)
def test_what_training_held_the_model_to_is_said(place: Path, train: dict[str, Any], said_as: str) -> None:
    update_file(place, train=train)
    assert read_update("update.yaml", output_dir="out").reference_in({}) == said_as
