"""What ends a command, and the exit status that says so."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from assent.cli import training
from assent.errors import ConfigError, GateError, NonFiniteError, StorageError
from assent.runs.files import storage_errors
from tests.support.cli import said

ARGV = ["sft", "--model", "m", "--data", "d", "--output-dir", "o"]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            ConfigError("bad", got=1, expected=2, fix="mend"),
            2,
            "error: bad\n  got:      1\n  expected: 2\n  to do:    mend\n",
        ),
        (GateError("the gate"), 1, "error: the gate\n"),
        (NonFiniteError("a NaN"), 3, "error: a NaN\n"),
        (StorageError("no room"), 3, "error: no room\n"),
        (OSError(errno.ENOSPC, "No space left on device", "model.safetensors"), 3, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "x.jsonl"), 2, "error: x.jsonl cannot be opened: Perm"),
        (OSError(errno.EROFS, "Read-only file system", "o/run.json"), 2, "o/run.json cannot be opened: Read-only"),
        (MemoryError(), 3, "error: not enough memory\n"),
        (ZeroDivisionError("division\nby zero"), 3, "error: unexpected ZeroDivisionError: division by zero\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_errors_kind_is_the_exit_status(
    error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str, config: Any) -> None:
        raise error

    monkeypatch.setattr(training, "run_step", fail)
    got, out, err = said(ARGV, capsys)
    assert (got, out) == (status, "")
    assert message in err
    assert "Traceback" not in err
    assert "Traceback" in said([*ARGV, "--debug"], capsys)[2]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EIO, "reports errors"),
    ],
)
@pytest.mark.parametrize("by_message", [False, True])
def test_what_to_do_about_a_disk_depends_on_what_is_wrong_with_it(number: int, words: str, by_message: bool) -> None:
    error = RuntimeError(f"SafetensorError: (os error {number})") if by_message else OSError(number, "no")
    with pytest.raises(StorageError) as caught, storage_errors(Path("o")):
        raise error
    assert words in (caught.value.fix or "")


def test_a_figure_that_is_not_finite_is_text_in_the_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the run folder: JSON has no number for it, and the run is done."""
    result = {"steps": 1, "model_path": "m", "metrics": {"grad_norm": float("inf"), "loss": 0.5}}
    monkeypatch.setattr(training, "run_step", lambda name, config: result)
    status, out, err = said([*ARGV, "--json"], capsys)
    assert (status, err) == (0, "")
    assert json.loads(out)["metrics"] == {"grad_norm": "inf", "loss": 0.5}
    assert "grad_norm                    inf" in said([*ARGV, "--verbose"], capsys)[1]


def test_sigterm_is_an_interruption_with_status_130(tmp_path: Path) -> None:
    code = (
        "import sys, time; from assent.cli import main, training\n"
        "def wait(name, config): print('ready', flush=True); time.sleep(600)\n"
        "training.run_step = wait\n"
        f"sys.exit(main({ARGV!r}))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "continues from the last checkpoint" in err
    assert "Traceback" not in err


def test_with_json_stdout_is_one_document_whoever_else_prints(tmp_path: Path) -> None:
    code = (
        "import ctypes, os, subprocess, sys; from assent.cli import main, training\n"
        "def noisy(name, config):\n"
        "    print('from Python'); os.write(1, b'from the descriptor\\n'); ctypes.CDLL(None).puts(b'from C')\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"from a child\")'])\n"
        "    return {'steps': 0, 'model_path': 'm', 'metrics': {}}\n"
        "training.run_step = noisy\n"
        f"status = main({[*ARGV, '--json']!r})\n"
        "print('afterwards'); sys.exit(status)\n"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # C's stdout too
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=buffered
    )
    assert done.returncode == 0, done.stderr
    document, afterwards = done.stdout.splitlines()
    assert json.loads(document)["command"] == "sft"
    assert afterwards == "afterwards"  # the caller's stdout is its own again
    for source in ("Python", "the descriptor", "C", "a child"):
        assert f"from {source}\n" in done.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "assent", "sft", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    assert process.returncode in (0, 1, -signal.SIGPIPE)
    process.stderr.close()


def test_handlers_of_the_caller_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    said(["sft"], capsys)
    assert signal.getsignal(signal.SIGTERM) is before
