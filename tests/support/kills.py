"""Commands that are killed at random moments and started again, until they end: do they end as if nothing had happened?

A moment is a share of the processor time that the undisturbed command takes, so that a busy machine moves it little.
Linux only: processor time and parents are read from the folder that the kernel keeps of its processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from assent.engine.checkpoint import damage
from tests.support import many_processes, stages
from tests.support.models import tiny_model
from tests.support.rows import write_rows
from tests.support.stages import ONLINE, PATIENCE_SECONDS, UNTOLD, told

PIPELINE = """
name: killed
output_dir: {out}
stages:
  - {{name: sft, command: sft, options: {{model: {model}, data: {demonstrations}, max_steps: 4, save_steps: 1}}}}
  - {{name: reward, command: reward, options: {{model: "${{sft.model_path}}", data: {comparisons}, max_steps: 4}}}}
  - name: ppo
    command: ppo
    options: {{model: "${{sft.model_path}}", data: {prompts}, reward: "${{reward.model_path}}", total_steps: 3,
      batch_size: 4, max_new_tokens: 6, max_length: 64, save_steps: 1}}
"""


@dataclass(frozen=True)
class Cell:
    """A command. `results` are the files that must come out the same, byte for byte."""

    name: str
    words: Sequence[str]
    results: Sequence[str] = ("model/model.safetensors",)
    processes: int = 1


def cells(inputs: Mapping[str, str]) -> list[Cell]:
    """Every stage, adapters, two processes, a pipeline, an evaluation, and work in shards. The last two words are
    `--output-dir` and a place for its value."""

    def stage(name: str, *more: str) -> list[str]:
        argv = stages.arguments(name, inputs, Path("OUT"))
        argv = [*argv, *more]
        at = argv.index("--output-dir")
        argv = argv[:at] + argv[at + 2 :]
        if "--reference-cache" in argv:
            at = argv.index("--reference-cache")
            argv = argv[:at] + argv[at + 2 :]
        return [*argv, "--output-dir"]

    whole = [Cell(name, stage(name)) for name in ("sft", "reward", "dpo", "online-dpo", *ONLINE)]
    whole.append(Cell("kto", stage("kto", "--split-comparisons")))
    adapter = ("model/adapter_model.safetensors",)
    adapted = [Cell(f"{name}, LoRA", stage(name, "--lora-r", "4"), adapter) for name in ("sft", "dpo", "ppo")]
    several = [Cell(f"{name}, two processes", stage(name), processes=2) for name in ("sft", "dpo", "ppo")]
    sharded = [
        Cell("sft, two processes, sharded", stage("sft", "--sharding", "shard"), processes=2),
        Cell("ppo, two processes, sharded", stage("ppo", "--sharding", "shard"), processes=2),
    ]
    drawing = ["--data", inputs["prompts"], "--max-length", "64", "--max-new-tokens", "6"]
    reward = ["--reward", "tests.support.stages:brevity"]
    drawn = ["sample", "--model", inputs["model"], *drawing, "--num-completions", "2"]
    scored = ["score", "--data", inputs["completions"], *reward, "--num-shards", "5"]
    pool = ["--engine", "local", "--workers", "2"]
    judged = ["eval", "--policy", inputs["other"], "--baseline", inputs["model"], *drawing]
    judged += ["--judge", "tests.support.stages:brevity", "--samples-per-prompt", "2"]
    others = [
        Cell("eval", [*judged, "--output-dir"], ("evaluation.json",)),
        Cell("eval, in shards", [*judged, "--num-shards", "4", "--output-dir"], ("evaluation.json",)),
        Cell("sample, in shards", [*drawn, "--num-shards", "4", "--output-dir"], ("completions.jsonl",)),
        Cell("sample, a pool", [*drawn, *pool, "--output-dir"], ("completions.jsonl",)),
        Cell("score, in shards", [*scored, "--output-dir"], ("scores.jsonl",)),
    ]
    models = [f"{name}/model/model.safetensors" for name in ("sft", "reward", "ppo")]
    return [*whole, *adapted, *several, *sharded, Cell("run", ["run", "PIPELINE", "--output-dir"], models), *others]


def write_inputs(folder: Path) -> dict[str, str]:
    """The inputs of `stages.write_inputs`, another model, completions to score, and a pipeline's file."""
    inputs = stages.write_inputs(folder)
    inputs["other"] = tiny_model(folder / "other", seed=1)
    rows = [{"prompt": f"p {i}", "completion": " b" * (i % 5 + 1)} for i in range(400)]
    inputs["completions"] = str(write_rows(folder / "completions.jsonl", rows))
    inputs["pipeline"] = str(folder / "pipeline.yaml")
    Path(inputs["pipeline"]).write_text(PIPELINE.format(out=folder / "unused", **inputs), encoding="utf-8")
    return inputs


@dataclass
class Told:
    """What became of one command that was killed. `kills` are the moments, in seconds of processor time."""

    cell: str
    seed: int
    kills: list[float] = field(default_factory=list)
    unusable: str | None = None
    """How the command failed when it was started again."""
    lost: list[str] = field(default_factory=list)
    """Verified checkpoints that a kill took."""
    identical: bool = False
    differs: list[str] = field(default_factory=list)


class Killer:
    """Starts the cells' commands. Undisturbed runs are kept in `folder`, one for each cell."""

    def __init__(self, folder: Path, inputs: Mapping[str, str]) -> None:
        self.folder, self.inputs = folder, inputs
        self.messages = folder / "messages"
        self._seconds: dict[str, float] = {}

    def told(self, cell: Cell, seed: int, *, kills: int) -> Told:
        """Kills a command of the cell so often, at moments that follow from the seed, and lets it end."""
        found, draw = Told(cell.name, seed), random.Random(seed)
        whole, broken = self._whole(cell), self.folder / f"broken-{seed}"
        while len(found.kills) < kills:
            moment = draw.uniform(0.02, 1.0) * self._seconds[cell.name]
            before = verified(broken)
            status, at = self._run(cell, broken, kill_after=moment, victim=draw.randrange(cell.processes))
            if status == 0:  # it was over before: another moment, in a new folder, unless some kills came before
                if found.kills:
                    break
                broken = broken.with_name(broken.name + "'")
                continue
            if status != -signal.SIGKILL:
                found.unusable = f"status {status} after {len(found.kills)} kills: {self._last_words()}"
                return found
            found.kills.append(round(at, 3))
            found.lost += lost(before, verified(broken))
        status, _ = self._run(cell, broken)
        if status != 0:
            found.unusable = f"status {status}: {self._last_words()}"
            return found
        found.differs = [name for name in cell.results if (broken / name).read_bytes() != (whole / name).read_bytes()]
        logs = sorted(path.relative_to(whole) for path in whole.rglob("metrics.jsonl"))
        found.differs += [str(log) for log in logs if of_the_run(broken / log) != of_the_run(whole / log)]
        found.identical = not found.differs
        return found

    def _whole(self, cell: Cell) -> Path:
        folder = self.folder / f"whole {cell.name}"
        if cell.name not in self._seconds:
            status, self._seconds[cell.name] = self._run(cell, folder)
            if status != 0:
                raise RuntimeError(f"{cell.name} fails undisturbed: {self._last_words()}")
        return folder

    def _last_words(self) -> str:
        return " / ".join(self.messages.read_text(encoding="utf-8", errors="replace").splitlines()[-4:])

    def _run(self, cell: Cell, folder: Path, *, kill_after: float | None = None, victim: int = 0) -> tuple[int, float]:
        """The exit status (of all processes: that of the first that failed) and the processor time it took."""
        self.messages.write_text("")
        words = [self.inputs["pipeline"] if word == "PIPELINE" else word for word in [*cell.words, str(folder)]]
        port = _free_port()
        processes = [start(words, self.messages, rank, cell.processes, port) for rank in range(cell.processes)]
        seconds, until, family = 0.0, time.monotonic() + 4 * PATIENCE_SECONDS, Family(map(number_of, processes))
        while any(process.exitcode is None for process in processes):
            seconds = max(seconds, sum(family.living().values()))
            if any(process.exitcode not in (None, 0) for process in processes) or time.monotonic() > until:
                family.kill()  # a launcher ends the others
            elif kill_after is not None and seconds >= kill_after:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(number_of(processes[victim]), signal.SIGKILL)
                processes[victim].join()
                if cell.processes > 1:
                    family.kill()
            time.sleep(0.01)
        while family.living():  # a pipeline's stages, and workers, end by themselves when their parent is gone
            family.kill() if time.monotonic() > until else time.sleep(0.01)
        statuses = [process.exitcode or 0 for process in processes]
        return next((status for status in [statuses[victim], *statuses] if status), 0), seconds


def start(words: Sequence[str], messages: Path, rank: int, number: int, port: int) -> BaseProcess:
    """`assent WORDS` as one of so many processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(stages.PRELOADED)
    told_by_launcher = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1,
    }  # fmt: skip
    environment = {name: str(value) for name, value in told_by_launcher.items()} if number > 1 else {}
    process = context.Process(target=many_processes._main, args=(environment, str(messages), [list(words)]))
    process.start()
    return process


def number_of(process: BaseProcess) -> int:
    assert process.pid, "0 would stand for a whole group of processes"
    return process.pid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Family:
    """Processes and all their descendants, also those whose parent has died."""

    def __init__(self, roots: Iterable[int]) -> None:
        self._known = set(roots)
        assert min(self._known) > 1, "not the ancestors of all processes"

    def living(self) -> dict[int, float]:
        """Numbers of the living ones, and their seconds of processor time with that of their ended children."""
        seen: dict[int, tuple[int, float]] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):  # it has ended
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    if fields[0] != "Z":
                        seconds = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
                        seen[int(folder.name)] = int(fields[1]), seconds
        while new := {number for number, (parent, _) in seen.items() if parent in self._known} - self._known:
            self._known |= new
        return {number: seconds for number, (_, seconds) in seen.items() if number in self._known}

    def kill(self) -> None:
        for number in self.living():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def verified(folder: Path) -> dict[str, int]:
    """The newest whole checkpoint of every run in the folder."""
    found: dict[str, int] = {}
    for path in folder.rglob("checkpoints/step-*"):
        run, step = str(path.parents[1].relative_to(folder)), int(path.name[5:])
        if damage(path) is None:
            found[run] = max(step, found.get(run, 0))
    return found


def lost(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Runs whose newest whole checkpoint is an older one than before."""
    return [f"{run}: step {step}" for run, step in before.items() if after.get(run, -1) < step]


def of_the_run(log: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what measures the machine, or what a cache saves."""
    untold = (*UNTOLD, "cost/flops")
    return [{name: value for name, value in row.items() if not name.startswith(untold)} for row in told(log)]


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts over all commands that were killed."""
    return {
        "kills": sum(len(one["kills"]) for one in found),
        "commands": len(found),
        "unusable_runs": sum(one["unusable"] is not None for one in found),
        "lost_checkpoints": sum(len(one["lost"]) for one in found),
        "identical_ends": sum(one["identical"] for one in found),
    }


def read_results(path: Path) -> list[dict[str, Any]]:
    """What was written down before; nothing where there is no file."""
    found: list[dict[str, Any]] = json.loads(path.read_text())["commands"] if path.exists() else []
    return found
