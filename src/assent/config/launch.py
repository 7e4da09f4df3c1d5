"""Which of how many processes this is, as torchrun, accelerate launch or srun says it. Torch-free."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from assent.errors import ConfigError, UsageError

FIRST_PORT, PORTS = 20000, 20000
"""Ports on which the processes of a Slurm job meet: the job's number chooses one."""


@dataclass(frozen=True, slots=True)
class Place:
    """This process among those that a launcher started."""

    rank: int = 0
    number: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """torchrun and accelerate launch set RANK and WORLD_SIZE, srun sets numbers of its own. Without them: one process.

    A batch script has Slurm's numbers of the job, but only srun sets those of a step.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return Place(int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1")))
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return Place(int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"]))
    return Place()


def check_one_process(command: str) -> None:
    """Raises UsageError if a launcher started several processes of a command that is made for one."""
    if (number := place().number) > 1:
        raise UsageError(
            f"{command} runs in one process",
            got=f"{number} processes",
            fix="start it without torchrun, accelerate launch or srun; the commands that train take several processes",
        )


def take_slurm(environment: MutableMapping[str, str] = os.environ) -> None:
    """Under srun, sets the variables that torchrun sets and that torch reads. MASTER_ADDR and MASTER_PORT stay as they
    are, if set; otherwise the processes meet on the step's first host."""
    here = place(environment)
    if here.number == 1 or "RANK" in environment:
        return
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or "127.0.0.1"
    environment.setdefault("MASTER_ADDR", first_host(hosts))
    job = int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))
    environment.setdefault("MASTER_PORT", str(FIRST_PORT + job % PORTS))
    environment["RANK"], environment["WORLD_SIZE"] = str(here.rank), str(here.number)
    environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", "0")
    environment["LOCAL_WORLD_SIZE"] = str(_tasks_here(environment, here.number))


def first_host(nodes: str) -> str:
    """The first host of Slurm's list: node01 of `node[01-03,07],other` and of `node01,node02`.

    Raises ConfigError for a list that does not look like Slurm's.
    """
    found = re.match(r"([^,\[\]]+)(?:\[([^,\-\]]+)[^\]]*\]([^,\[\]]*))?(?:,|$)", nodes)
    if found is None:
        raise ConfigError("the list of hosts cannot be read", got=nodes, fix="set MASTER_ADDR to the first host")
    return "".join(part or "" for part in found.groups())


def _tasks_here(environment: Mapping[str, str], number: int) -> int:
    """Tasks on this node: its entry in a list like `4(x2),3`."""
    listed: list[int] = []
    for entry in environment.get("SLURM_STEP_TASKS_PER_NODE", str(number)).split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry)
        listed += [int(found[1])] * int(found[2] or 1) if found else []
    node = int(environment.get("SLURM_NODEID", "0"))
    return listed[node] if node < len(listed) else 1
