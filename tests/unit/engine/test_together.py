"""Several processes end as one: with the error of the one that failed, and with what each of them was doing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import replaced
from tests.support.many_processes import Group, arguments, write_inputs
from tests.support.rows import read_rows


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("together"))


def sft(inputs: dict[str, str], run: Path, *more: str) -> list[str]:
    argv = arguments("sft", inputs, run, adapter=False, steps=4)
    return [str(word) for word in replaced(argv, "--batch-size", "4", *more)]


def two(argv: list[str], folder: Path, trouble: str) -> tuple[list[int | None], list[str]]:
    group = Group(2, folder / "logs", [argv], PREPARE=f"tests.support.troubles:{trouble}")
    return group.ended(), group.said()


@pytest.mark.parametrize("sharding", ["replicate", "shard"])
def test_an_error_of_one_process_ends_all_with_it(inputs: dict[str, str], tmp_path: Path, sharding: str) -> None:
    statuses, said = two(sft(inputs, tmp_path / "run", "--sharding", sharding), tmp_path, "failing")
    assert statuses == [3, 3]
    assert "ArithmeticError: the second process has had enough" in said[1]
    assert "process 1 failed, which ends this one too: the second process has had enough" in said[0]


def test_a_process_that_is_killed_ends_the_others(inputs: dict[str, str], tmp_path: Path) -> None:
    statuses, said = two(sft(inputs, tmp_path / "run"), tmp_path, "killed")
    assert statuses == [3, -9]
    assert "process 0 waited for the others in vain" in said[0]
    assert "process 1: update 2 on 4 groups" in said[0] or "process 1: update 1 on 4 groups" in said[0]


def test_a_process_that_is_stuck_is_named_after_the_limit(inputs: dict[str, str], tmp_path: Path) -> None:
    """It is alive, so only the limit of a collective call ends the wait; then its own thread ends it."""
    statuses, said = two(sft(inputs, tmp_path / "run"), tmp_path, "stuck")
    assert statuses == [3, 3]  # not that of one who runs out of patience: it sleeps for longer
    assert "process 0 waited for the others in vain, in a collective call" in said[0]
    assert "process 0 failed, which ends this one too" in said[1]


def test_a_judge_may_take_longer_than_a_collective_call(inputs: dict[str, str], tmp_path: Path) -> None:
    argv = [*arguments("online-dpo", inputs, tmp_path / "run", adapter=False)]
    argv[argv.index("tests.support.stages:letters")] = "tests.support.troubles:slow"
    statuses, said = two(argv, tmp_path, "short_waits")
    assert statuses == [0, 0], said
    assert len(read_rows(tmp_path / "run" / "preferences.jsonl")) > 0


def test_the_copy_of_a_fork_may_take_longer_than_a_collective_call(inputs: dict[str, str], tmp_path: Path) -> None:
    parent = sft(inputs, tmp_path / "parent", "--save-steps", "1", "--save-total-limit", "9")
    assert Group(1, tmp_path / "alone", [parent]).ended() == [0]
    statuses, said = two(sft(inputs, tmp_path / "run", "--fork", f"{tmp_path / 'parent'}@2"), tmp_path, "slow_copy")
    assert statuses == [0, 0], said
    assert "resumed after step 2" in said[0]
