"""A run folder belongs to one run, to one process at a time, and is whole at every moment."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from assent.errors import RunFolderError, StorageError, UsageError
from assent.runs import files
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from assent.runs.reading import read_run

CONFIG = {"model": "m", "beta": 0.1, "output_dir": "somewhere", "save_steps": 10, "resume": True}


def open_folder(path: Path, config: dict[str, Any] | None = None, **options: Any) -> RunFolder:
    return RunFolder.open(path, config or CONFIG, **{"command": "dpo", "resume": True, **options})


def test_run_json_says_what_the_run_stood_on(tmp_path: Path) -> None:
    with open_folder(tmp_path / "a" / "run", hashes={"train data": "ab12"}, parents=["../sft"]) as folder:
        manifest = json.loads((folder.path / "run.json").read_text())
    assert manifest["config"] == CONFIG
    assert manifest["command"] == "dpo"
    assert manifest["hashes"] == {"train data": "ab12"}
    assert manifest["parents"] == ["../sft"]
    assert manifest["status"] == "running"
    assert {"assent", "torch", "transformers", "python"} <= set(manifest["versions"])
    assert manifest["git_revision"] is None or len(manifest["git_revision"].removesuffix("+changes")) == 40


def test_an_interrupted_run_resumes_and_a_finished_one_is_returned(tmp_path: Path) -> None:
    with open_folder(tmp_path / "run") as folder:
        assert not folder.resumed
        folder.note("first")
        folder.record(tier="segments")
        started = folder.manifest["started"]
    with open_folder(tmp_path / "run") as folder:
        assert folder.resumed
        assert not folder.is_finished
        assert folder.manifest["started"] == started
        folder.finish({"steps": 3})
    with open_folder(tmp_path / "run") as folder:
        assert folder.is_finished
        assert folder.result == {"steps": 3}
        assert folder.manifest["notes"] == ["first"]
        assert folder.manifest["facts"] == {"tier": "segments"}


def test_another_command_s_run_is_refused_without_its_options(tmp_path: Path) -> None:
    open_folder(tmp_path).close()
    with pytest.raises(RunFolderError) as caught:
        open_folder(tmp_path, {"gold": "g"}, command="frontier")
    assert (caught.value.got, caught.value.expected) == ("command: frontier", "command: dpo (as that run was started)")


def test_another_configuration_is_refused_by_the_keys_that_differ(tmp_path: Path) -> None:
    open_folder(tmp_path, hashes={"train data": "1", "model": "x"}).close()
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunFolderError) as caught:
        open_folder(tmp_path, {**CONFIG, "beta": 0.5, "extra": 1}, hashes={"train data": "2", "model": "x"})
    text = str(caught.value)
    assert "beta: 0.5" in text
    assert "beta: 0.1" in text
    assert "extra: 1" in text
    assert "hash of train data: 2" in text
    assert "model" not in text
    with pytest.raises(RunFolderError, match="command: sft"):
        open_folder(tmp_path, command="sft")
    assert (tmp_path / "run.json").read_bytes() == before


def test_options_that_cannot_change_the_result_may_differ(tmp_path: Path) -> None:
    open_folder(tmp_path).close()
    open_folder(tmp_path, {**CONFIG, "output_dir": "moved", "save_steps": 5}).close()


def test_values_that_json_writes_otherwise_are_the_same_configuration(tmp_path: Path) -> None:
    config = {"path": Path("a"), "pair": (1, 2), "rate": 1e-300}
    open_folder(tmp_path, config).close()
    open_folder(tmp_path, config).close()


def test_no_resume_wants_a_new_folder(tmp_path: Path) -> None:
    open_folder(tmp_path, resume=False).close()
    with pytest.raises(RunFolderError, match="already has a started run"):
        open_folder(tmp_path, resume=False)


def test_no_resume_holds_for_the_main_process_which_the_others_may_come_after(tmp_path: Path) -> None:
    with open_folder(tmp_path, resume=False), open_folder(tmp_path, resume=False, is_main=False) as other:
        assert not other.is_main


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match=r"thesis\.tex"):
        open_folder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunFolderError, match="is a file"):
        open_folder(tmp_path / "thesis.tex")


@pytest.mark.parametrize("content", ['{"format": 1, "comm', "[]", '{"format": 99}'])
def test_a_damaged_or_foreign_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError):
        open_folder(tmp_path)


def test_a_second_process_is_refused_and_named(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    with pytest.raises(RunFolderError, match=rf"in use by another process\n.*process {os.getpid()}"):
        open_folder(tmp_path)
    folder.close()
    open_folder(tmp_path).close()


def test_the_lock_ends_with_its_process_however_it_ends(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        folder = open_folder(tmp_path)
        os.kill(os.getpid(), 9)
        folder.close()
    os.waitpid(child, 0)
    with open_folder(tmp_path) as folder:
        assert folder.resumed


def test_other_processes_of_a_run_read_and_write_nothing(tmp_path: Path) -> None:
    with open_folder(tmp_path) as main, open_folder(tmp_path, is_main=False) as other:
        assert not other.is_main
        log = RunLog(other)
        log.metrics(1, {"loss": 1.0})
        log.note("twice")
        other.finish({})
        assert not (tmp_path / "metrics.jsonl").exists()
        assert json.loads((tmp_path / "run.json").read_text())["status"] == "running"
        assert main.manifest["notes"] == []


def test_metrics_samples_and_notes_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_folder(tmp_path) as folder:
        log = RunLog(folder)
        log.metrics(0, {"gate/ratio": 0.0})
        log.metrics(1, {"loss": 0.1 + 0.2, "kl": float("inf")})
        log.metrics(2, {"loss": float("nan")})
        log.samples(2, [{"prompt": "é", "completion": "x"}])
        log.note("a line")
        log.note("a line")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "a line\na line\n"
    run = read_run(tmp_path)
    assert run.metrics["loss"].steps == (1, 2)
    assert run.metrics["loss"].values[0] == 0.1 + 0.2
    assert run.metrics["loss"].last != run.metrics["loss"].last  # NaN comes back as NaN
    assert run.metrics["kl"].values == (float("inf"),)
    assert run.samples == [{"step": 2, "prompt": "é", "completion": "x"}]
    assert run.notes == ["a line"]
    assert (run.command, run.is_finished, run.result) == ("dpo", False, None)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def test_rewinding_drops_what_came_after_and_what_a_crash_cut(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        log = RunLog(folder)
        for step in range(5):
            log.metrics(step, {"loss": float(step)})
            log.samples(step, [{"text": str(step)}])
        whole = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
        with (tmp_path / "metrics.jsonl").open("a") as stream:
            stream.write('{"step": 5, "lo')
        assert read_run(tmp_path).metrics["loss"].steps == (0, 1, 2, 3, 4)
        folder.rewind(3)
        assert (tmp_path / "metrics.jsonl").read_bytes().split(b"\n") == [*whole[:4], b""]
        assert [row["step"] for row in read_run(tmp_path).samples] == [0, 1, 2, 3]
        log.metrics(4, {"loss": 4.0})
        assert (tmp_path / "metrics.jsonl").read_bytes().split(b"\n") == whole
        folder.rewind(None)
        assert read_run(tmp_path).metrics == {}


@pytest.mark.parametrize("values", [{"lost": 1.0}, {"loss": "low"}, {"loss": True}, {"loss": None}])
def test_undeclared_names_and_non_numbers_are_errors(tmp_path: Path, values: dict[str, Any]) -> None:
    with open_folder(tmp_path) as folder:
        with pytest.raises(UsageError):
            RunLog(folder).metrics(1, values)
        assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, StorageError), (errno.EIO, StorageError)])
def test_a_full_disk_is_a_storage_error_and_the_manifest_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    with open_folder(tmp_path) as folder:
        before = (tmp_path / "run.json").read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(error, match="last checkpoint is intact"):
            folder.note("x")
        with pytest.raises(error):
            folder.rewind(0) if (tmp_path / "metrics.jsonl").exists() else folder.finish({})
        monkeypatch.undo()
        assert (tmp_path / "run.json").read_bytes() == before
        assert not list(tmp_path.glob("*.tmp"))
        assert not list(tmp_path.glob(".*.tmp"))


def test_reading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        read_run(tmp_path)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        read_run(tmp_path / "nowhere")


def test_checkpoints_are_listed_by_number(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        for name in ("step-10", "step-9", ".step-11.tmp", "step-x"):
            (tmp_path / "checkpoints" / name).mkdir(parents=True)
        assert [p.name for p in folder.checkpoints()] == ["step-9", "step-10"]


def test_a_run_that_was_started_from_other_weights_is_refused(tmp_path: Path) -> None:
    for fingerprint in ("a", "a"):
        with open_folder(tmp_path / "run") as folder:
            folder.record_start("model", fingerprint)
            folder.record_start("reference", "r")
    with open_folder(tmp_path / "run") as folder:
        with pytest.raises(RunFolderError, match="started from other weights") as caught:
            folder.record_start("model", "b")
        assert (caught.value.got, caught.value.expected) == ("model b", "model a")
        assert folder.manifest["facts"]["start"] == {"model_start": "a", "reference_start": "r"}


@pytest.mark.parametrize("write", ["write_json", "write_text", "keep_lines"])
def test_a_replaced_file_is_on_the_disk_before_it_has_its_name(
    write: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that is on the disk before the bytes leaves an empty file after a power cut."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("fsync")
        fsync(descriptor)

    def replaced(*paths: Any) -> None:
        done.append("replace")
        replace(*paths)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", replaced)
    path = tmp_path / "file"
    {
        "write_json": lambda: files.write_json(path, [1]),
        "write_text": lambda: files.write_text(path, "x", what="it"),
        "keep_lines": lambda: files.keep_lines(path, [{"step": 1}]),
    }[write]()
    assert done == ["fsync", "replace", "fsync"]
    assert path.read_text()
