"""Logs and records that were made to hang, and records of other shapes: one error, which names the file."""

from __future__ import annotations

import json
import os

import pytest

from assent.errors import DataError, RunFolderError
from assent.runs.foreign_logs import read_raw_log, read_settings
from assent.runs.reading import read_run

RUN = {"format": 1, "command": "sft", "config": {}, "hashes": {}, "status": "finished", "facts": {}, "notes": [],
       "result": None}  # fmt: skip


def put(path, kind):
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_logs_and_records_that_never_end_are_not_read(tmp_path, kind):
    with pytest.raises(DataError, match="is a pipe or a device"):
        read_raw_log(put(tmp_path / "log.jsonl", kind))
    with pytest.raises(DataError, match="is a pipe or a device"):
        read_settings(put(tmp_path / "settings.json", kind))
    put(tmp_path / "run.json", kind)
    with pytest.raises(RunFolderError, match=r"run\.json is a pipe or a device"):
        read_run(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    put(tmp_path / "metrics.jsonl", kind)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is a pipe or a device"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "record",
    ["{}", "[" * 50_000, json.dumps(RUN | {"config": [1]}), json.dumps(RUN | {"command": 5}),
     json.dumps(RUN | {"result": 5}), json.dumps(RUN | {"notes": None})],
    ids=["empty", "deep", "config", "command", "result", "notes"],
)  # fmt: skip
def test_a_record_of_another_shape_is_damaged(tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    with pytest.raises(RunFolderError, match=r"run\.json is damaged"):
        read_run(tmp_path)
