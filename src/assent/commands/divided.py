"""A command's work on a file of rows, done at once or in shards, by this process or by a pool (docs/large-files.md).

A command gives its work as a `Job`: what a worker gets, and the function that turns it into records. The records are
the same, in the same order, whoever does the work; the command joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from assent.config.sharding import ShardingOptions
from assent.data.shards import Apart, Done, Record, Shard, Shards, cut, status_lines
from assent.engine.ledger import Ledger
from assent.errors import ConfigError, RunFolderError
from assent.integrations.executor import Inline, Open, Pool, Result, execute
from assent.runs.environment import cores
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from assent.runs.progress import Progress, Silent, Task

WAIT_SECONDS = 3600.0
"""How long a process waits for another one that opens or joins the same run. One that dies is not waited for."""
MOST_UNITS = 16
"""Units of a shard where their number is not chosen: little is lost with one, and few files are written."""
DEFAULT_WORKERS = 2
ADDS_UP = ("completions_sampled", "reward_calls", "flops")
"""Costs of a piece of work; the others are the highest of all pieces."""


class Job(Protocol):
    """Work on `rows` rows."""

    config: Any
    output: str
    """Names the file that the command writes in the end."""
    unit: int
    """Rows that are worked on together: shards begin at multiples of it, so that no result depends on them."""
    ledger: Ledger
    apart: list[Apart]
    """Rows that could not be worked on: none without shards. Complete when all records have been read."""
    reports: list[dict[str, Any]]
    """What the work says of its rows, as `Done.reports`. Complete when all records have been read."""

    @property
    def rows(self) -> int: ...

    def load(self, first: int, last: int) -> Any:
        """What a worker gets for these rows."""

    def digest(self, first: int, last: int) -> str:
        """SHA-256 of these rows' content."""

    def source(self, row: int) -> str:
        """The row's name, for people."""

    def opened(self, progress: Progress | None = None) -> Open:
        """Loads the models in a worker; the work that it gives returns `Done`. `progress`: where work in this process
        shows how far it is in a piece."""


Join = Callable[[Iterable[Record], RunFolder, RunLog], dict[str, Any]]
"""Writes a command's files from the records of all rows, closes the run and returns its result."""


def open_job(
    config: Any, command: str, hashes: Mapping[str, str], lines: Iterable[str], progress: Progress | None
) -> RunFolder:
    """The run's folder, opened or resumed; `lines` say what was read. A finished one has its `final_result`."""
    folder = RunFolder.open(
        config.output_dir,
        config.model_dump(),
        command=command,
        resume=True,
        hashes=hashes,
        wait_seconds=WAIT_SECONDS if config.shard is not None else 0.0,
    )
    if final_result(folder) is not None:
        (progress or Silent()).line(f"{folder.path}: this run is finished; nothing to do")  # its record stays as it is
        return folder
    log = RunLog(folder, progress=progress)
    folder.rewind(None)
    for line in lines:
        log.note(line)
    return folder


def final_result(folder: RunFolder) -> dict[str, Any] | None:
    """The finished run's result. None if rows were kept apart: the same command takes them again."""
    result = folder.result
    return None if result is None or result.get("apart") else result


def run_job(
    job: Job, join: Join, *, opened: Callable[[], RunFolder], progress: Progress | None = None
) -> dict[str, Any]:
    """Does the work and joins its records; of work in shards that is not all done, returns their status.

    opened   opens the run's folder
    """
    config, shown = job.config, progress or Silent()
    with opened() as folder:
        if (result := final_result(folder)) is not None:
            return result
        log = RunLog(folder, progress=progress)
        if not config.is_sharded:
            return join(whole(job, progress), folder, log)
        shards = _open_shards(job, folder)
        if config.shard is None:
            _work_off(job, shards, shards.shards, shown)
            return join(_joined(job, shards), folder, log)
    # other processes work on other shards: none has the folder meanwhile
    _work_off(job, shards, shards.shards[config.shard : config.shard + 1], shown)
    status = _described(str(folder.path), shards, job.output)
    if len(status["done"]) < len(shards.shards):
        return status
    with opened() as folder:
        if (result := final_result(folder)) is not None:
            return result
        return join(_joined(job, shards), folder, RunLog(folder, progress=progress))


def status_of(config: Any, output: str) -> dict[str, Any] | None:
    """With --status, what is done, running and failed; None without it. Raises RunFolderError if nothing was begun.

    `output` names the file that the command writes in the end: there is none yet.
    """
    if not config.status:
        return None
    shards = Shards.of(Path(config.output_dir))
    if shards is None:
        raise RunFolderError(
            f"{config.output_dir} has no shards", expected="the folder of a run with --num-shards or --engine"
        )
    return _described(config.output_dir, shards, output)


def _described(folder: str, shards: Shards, output: str) -> dict[str, Any]:
    status = shards.status()
    return {"output_dir": folder, output: None, **status, "lines": status_lines(status)}


def check_engine(config: ShardingOptions) -> None:
    """Raises ConfigError if the engine is not installed. Loads nothing."""
    if config.engine == "ray":
        from assent.integrations.ray_pool import check_ray

        check_ray()


def whole(job: Job, progress: Progress | None) -> Iterator[Record]:
    """All rows, unit by unit, in this process. An error of a row is raised."""
    work = job.opened(progress)(0)
    with (progress or Silent()).task("rows", total=job.rows) as task:
        for first in range(0, job.rows, job.unit):
            last = min(first + job.unit, job.rows)
            done: Done = work(job.load(first, last))
            _add(job.ledger, done.costs)
            job.reports += done.reports
            task.advance(last - first)
            yield from done.records


def _joined(job: Job, shards: Shards) -> Iterator[Record]:
    """The records of all shards. When they have been read, `job.apart` and `job.reports` are complete."""

    def each(shard: Shard, seal: Mapping[str, Any]) -> None:
        _add(job.ledger, seal["costs"])
        job.apart.extend(Apart(**row) for row in seal["apart"])
        job.reports += seal.get("reports", [])

    return shards.records(each=each)


def _open_shards(job: Job, folder: RunFolder) -> Shards:
    config: ShardingOptions = job.config
    workers = (config.workers or DEFAULT_WORKERS) if config.engine else 1
    units = -(-job.rows // job.unit)
    number = config.num_shards or max(min(units, 4 * workers), -(-units // MOST_UNITS))
    parts = cut(job.rows, shards=number, unit=job.unit)
    if config.shard is not None and config.shard >= len(parts):
        raise ConfigError(
            "there is no such shard: the rows are too few",
            got=f"shard {config.shard}",
            expected=f"below {len(parts)}: {job.rows} rows, in units of {job.unit}",
        )
    threads = torch.get_num_threads() if config.engine is None else max(1, cores() // workers)
    return Shards.open(
        folder.path,
        parts,
        digest=job.digest,
        facts={"threads": 1 if config.engine == "ray" else threads},
        again=config.num_shards is not None,
    )


def _work_off(job: Job, shards: Shards, mine: list[Shard], shown: Progress) -> None:
    """Works on those of the shards that are not done, and that nobody else works on."""
    left = [shard for shard in mine if not shards.is_done(shard)]
    if len(left) < len(mine):
        shown.line(f"{len(mine) - len(left)} of {len(mine)} shards are done already")
    if not left:
        return
    claims: dict[int, AbstractContextManager[bool]] = {}
    pool = _pool(job, int(shards.facts["threads"]))
    try:
        with shown.task("rows", total=sum(shard.last - shard.first for shard in left)) as task:

            def pieces() -> Iterator[tuple[Shard, int, int]]:
                for shard in left:
                    claim = shards.claimed(shard)
                    if claim.__enter__():
                        claims[shard.number] = claim
                        yield shard, shard.first, shard.last
                    else:
                        shown.line(f"shard {shard.number} is being worked on by another process")

            def keep(shard: Shard, result: Result) -> None:
                _keep(job, shards, shard, result, task)
                claims.pop(shard.number).__exit__(None, None, None)

            execute(pool, pieces(), load=job.load, keep=keep, failed=shards.failed)
    finally:
        pool.close()
        for claim in claims.values():
            claim.__exit__(None, None, None)


def _keep(job: Job, shards: Shards, shard: Shard, result: Result, task: Task) -> None:
    done = added_up(result.values)
    done.apart = [Apart(job.source(row), reason) for row, reason in result.apart]
    shards.write(shard, done)
    task.advance(shard.last - shard.first)


def _pool(job: Job, threads: int) -> Pool:
    config: ShardingOptions = job.config
    opened = _Opened(job.opened(), threads)
    if config.engine is None:
        return Inline(opened)
    size = config.workers or DEFAULT_WORKERS
    if config.engine == "local":
        from assent.integrations.local_pool import LocalPool

        return LocalPool(opened, size=size)
    from assent.integrations.ray_pool import RayPool

    wants_gpu = torch.cuda.is_available() and job.config.device in ("auto", "cuda")
    return RayPool(opened, size=size, gpus=wants_gpu)


@dataclass(frozen=True, slots=True)
class _Opened:
    """Opens the work with the number of threads that the shards were begun with (law 7)."""

    opened: Open
    threads: int

    def __call__(self, worker: int) -> Any:
        torch.set_num_threads(self.threads)
        if torch.cuda.is_available():
            torch.cuda.set_device(worker % torch.cuda.device_count())
        return self.opened(worker)


def added_up(parts: Iterable[Done]) -> Done:
    """One `Done` for pieces of work that follow one another."""
    whole = Done([])
    for part in parts:
        whole.records += part.records
        whole.reports += part.reports
        for name, cost in part.costs.items():
            known = whole.costs.get(name, 0.0)
            whole.costs[name] = known + cost if name in ADDS_UP else max(known, cost)
    return whole


def _add(ledger: Ledger, costs: Mapping[str, float]) -> None:
    ledger.add(**{name: costs.get(name, 0.0) for name in ADDS_UP})
    ledger.models_resident = max(ledger.models_resident, int(costs.get("models_resident", 0)))
    ledger.seen_elsewhere(costs.get("peak_memory_bytes", 0.0))
