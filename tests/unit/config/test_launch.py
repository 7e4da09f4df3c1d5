"""Who a process is, by what torchrun, accelerate launch and srun say."""

from __future__ import annotations

import pytest

from assent.config.launch import FIRST_PORT, Place, check_one_process, first_host, place, take_slurm
from assent.errors import ConfigError, UsageError

STEP = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "1",
}


def test_without_a_launcher_there_is_one_process() -> None:
    assert place({}) == Place(0, 1)
    assert place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == Place(0, 1)  # a batch script, not a step of srun


def test_torchrun_and_srun_say_who_a_process_is() -> None:
    assert place({"RANK": "3", "WORLD_SIZE": "4"}) == Place(3, 4)
    assert place(STEP) == Place(5, 7)
    assert place({**STEP, "RANK": "0", "WORLD_SIZE": "2"}) == Place(0, 2)  # torchrun, started by srun


def test_under_srun_torch_finds_what_torchrun_would_set() -> None:
    environment = dict(STEP)
    take_slurm(environment)
    set_by_us = {name: value for name, value in environment.items() if name not in STEP}
    assert set_by_us == {
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(FIRST_PORT + 42),
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
    }
    own = {**STEP, "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    take_slurm(own)
    assert (own["MASTER_ADDR"], own["MASTER_PORT"]) == ("here", "1")
    by_torchrun = {**STEP, "RANK": "0", "WORLD_SIZE": "2"}
    take_slurm(by_torchrun)
    assert "MASTER_ADDR" not in by_torchrun


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[3,5-9]", "n3"),
        ("n[01-04]", "n01"),
        ("a[1-2]-ib,b", "a1-ib"),
        ("a-b,c", "a-b"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_a_list_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        first_host("[1-2]")


def test_a_command_of_one_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    check_one_process("assent sample")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="assent sample runs in one process"):
        check_one_process("assent sample")
