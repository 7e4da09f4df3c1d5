"""A run that was interrupted, killed, or out of disk, and started again, ends as one that never was (law 7)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from assent.engine.checkpoint import damage
from tests.support.stages import UNTOLD, Fault, arguments, ended, run, start, told, write_inputs

COMMANDS = ["sft", "reward", "dpo", "online-dpo", "ppo", "a2c", "grpo", "rloo", "ppo --algorithm reinforce++"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves that does not depend on how long it took."""
    written = {name: folder / f"{name}.jsonl" for name in ("samples", "preferences")}
    result = json.loads((folder / "run.json").read_text())["result"]["metrics"]
    return {
        "weights": (folder / "model" / "model.safetensors").read_bytes(),
        "metrics": told(folder / "metrics.jsonl"),
        **{name: path.read_text() if path.exists() else None for name, path in written.items()},
        "result": {name: value for name, value in result.items() if not name.startswith(UNTOLD)},
    }


def steps_logged(folder: Path) -> list[int]:
    metrics = folder / "metrics.jsonl"
    return [
        row["step"] for row in (told(metrics) if metrics.exists() else []) if "loss" in row or "objective/kl" in row
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted_and_killed_runs_end_as_one_that_never_was(
    command: str, inputs: dict[str, str], tmp_path: Path
) -> None:
    messages = tmp_path / "messages"
    whole, broken = tmp_path / "whole", tmp_path / "broken" / "run"
    assert run(arguments(command, inputs, whole), messages) == 0, messages.read_text()
    argv = arguments(command, inputs, broken)

    assert run(argv, messages, Fault(after=1, number=signal.SIGKILL)) == -signal.SIGKILL  # before any checkpoint
    assert run(argv, messages, Fault(after=1, number=signal.SIGTERM)) == 130
    assert [path.name for path in (broken / "checkpoints").iterdir()] == ["step-1"]
    assert run(argv, messages, Fault(after=3, number=signal.SIGKILL)) == -signal.SIGKILL
    assert [path.name for path in sorted((broken / "checkpoints").iterdir())] == ["step-1", "step-2"]
    assert steps_logged(broken) == [1, 2, 3]  # the third is cut off and written again
    assert run(argv, messages, Fault(after=5, number=signal.SIGINT)) == 130  # all steps done, nothing saved
    assert not (broken / "model").exists()
    assert run(argv, messages) == 0, messages.read_text()

    found, expected = outcome(broken), outcome(whole)
    assert found["weights"] == expected["weights"]
    if command == "dpo":  # the first, lost attempt has paid for the reference pass; the others read its cache
        for part in (found, expected):
            part["metrics"] = [{**row, "cost/flops": None} for row in part["metrics"]]
            part["result"] = {**part["result"], "cost/flops": None}
    assert found == expected
    assert "resumed after step 2" in messages.read_text()


def test_a_run_killed_in_the_middle_of_a_rollout_ends_as_one_that_never_was(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    messages, whole, broken = tmp_path / "messages", tmp_path / "whole", tmp_path / "broken"
    assert run(arguments("ppo", inputs, whole), messages) == 0, messages.read_text()
    argv = arguments("ppo", inputs, broken)
    # six tokens in a round: in the third token of the first round, of the third and, resumed after the second, of that
    for token, steps in ((3, []), (15, [1, 2]), (3, [1, 2])):
        assert run(argv, messages, Fault(token=token)) == -signal.SIGKILL
        assert steps_logged(broken) == steps
    assert run(argv, messages) == 0, messages.read_text()
    assert outcome(broken) == outcome(whole)
    assert messages.read_text().count("resumed after step 2") == 2


# eight updates in a round: inside its first pass, after the third round was sampled, and inside its second pass
@pytest.mark.parametrize(
    ("threads", "kills"), [(1, [(3, []), (17, [1, 2]), (6, [1, 2])]), (2, [(20, [1, 2])])], ids=["1", "2"]
)
def test_a_run_killed_before_or_inside_a_pass_of_updates_ends_as_one_that_never_was(
    threads: int, kills: list[tuple[int, list[int]]], inputs: dict[str, str], tmp_path: Path
) -> None:
    """With two threads policy and critic are updated side by side."""
    messages, whole, broken = tmp_path / "messages", tmp_path / "whole", tmp_path / "broken"
    assert run(arguments("ppo", inputs, whole), messages, Fault(threads=threads)) == 0, messages.read_text()
    argv = arguments("ppo", inputs, broken)
    for update, steps in kills:
        assert run(argv, messages, Fault(update=update, threads=threads)) == -signal.SIGKILL
        assert steps_logged(broken) == steps
    assert run(argv, messages, Fault(threads=threads)) == 0, messages.read_text()
    assert outcome(broken) == outcome(whole)
    assert "resumed after step 2" in messages.read_text()


def test_a_second_process_in_the_same_folder_is_refused_and_the_first_goes_on(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    messages, refusal, folder = tmp_path / "messages", tmp_path / "refusal", tmp_path / "run"
    argv = arguments("sft", inputs, folder)
    first = start(argv, messages, Fault(after=3, number=signal.SIGSTOP))
    try:
        while first.exitcode is None and 3 not in steps_logged(folder):
            time.sleep(0.01)
        assert run(argv, refusal) == 2
    finally:
        while first.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(first.pid or 0, signal.SIGCONT)
            first.join(timeout=0.1)
    assert ended(first, messages) == 0, messages.read_text()
    assert refusal.read_text().count("error: ") == 1
    assert "in use by another process" in refusal.read_text()
    assert str(first.pid) in refusal.read_text()
    assert run(arguments("sft", inputs, tmp_path / "whole"), messages) == 0
    assert outcome(folder) == outcome(tmp_path / "whole")


def test_a_finished_run_is_not_repeated(inputs: dict[str, str], tmp_path: Path) -> None:
    messages, argv = tmp_path / "messages", arguments("sft", inputs, tmp_path / "run")
    assert run(argv, messages) == 0
    written = [tmp_path / "run" / name for name in ("metrics.jsonl", "model/model.safetensors", "checkpoints")]
    before = [path.stat().st_mtime_ns for path in written]
    assert run(argv, messages, Fault(after=1, number=signal.SIGKILL)) == 0  # no step is taken that could kill it
    assert [path.stat().st_mtime_ns for path in written] == before
    assert "nothing to do" in messages.read_text()


def test_a_disk_that_fills_gives_status_3_and_leaves_the_last_checkpoint(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    messages, folder = tmp_path / "messages", tmp_path / "run"
    whole = tmp_path / "whole"
    assert run(arguments("sft", inputs, whole), messages) == 0
    argv = arguments("sft", inputs, folder)
    assert run(argv, messages, Fault(after=3, number=signal.SIGTERM)) == 130
    messages.write_text("")
    # Room for the log and the notes, none for weights.
    assert run(argv, messages, Fault(file_bytes=20_000)) == 3
    message = messages.read_text()
    assert message.count("\nerror: ") == 1
    assert "cannot write" in message
    assert "resumes" in message
    assert "Traceback" not in message
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-2", "step-3"]
    assert all(damage(path) is None for path in (folder / "checkpoints").iterdir())
    assert run(argv, messages) == 0, messages.read_text()
    assert outcome(folder) == outcome(whole)


def test_a_disk_that_is_full_from_the_start_gives_status_3(inputs: dict[str, str], tmp_path: Path) -> None:
    messages, argv = tmp_path / "messages", arguments("dpo", inputs, tmp_path / "run")
    assert run(argv, messages, Fault(file_bytes=1000)) == 3
    assert messages.read_text().startswith("error: cannot write")
    assert run(argv, messages) == 0, messages.read_text()


@pytest.mark.parametrize(
    "command", [["dpo", "--reference-sync-steps", "2", "--loss-type", "bco_pair"], ["kto", "--split-comparisons"]]
)
def test_a_reference_that_follows_and_losses_of_the_whole_step_resume(
    command: list[str], inputs: dict[str, str], tmp_path: Path
) -> None:
    messages, found = tmp_path / "messages", []
    for name in ("whole", "broken"):
        argv = [*arguments("reward", inputs, tmp_path / name), *command[1:], "--micro-batch-tokens", "40"]
        argv = [command[0], *argv[1:]]
        if name == "broken":
            assert run(argv, messages, Fault(after=3, number=signal.SIGTERM)) == 130, messages.read_text()
        assert run(argv, messages) == 0, messages.read_text()
        found.append(outcome(tmp_path / name))
    for part in found:  # a broken run has read its reference from the cache
        part["metrics"] = [{**row, "cost/flops": None} for row in part["metrics"]]
        part["result"] = {**part["result"], "cost/flops": None}
    assert found[0] == found[1]
