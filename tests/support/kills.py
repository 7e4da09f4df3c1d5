"""Runs that are killed at random moments and started again: what is left after each kill, and how they end.

A seed says which command runs, how often it is killed, and after which share of its time. The process and all that it
started die at once, as at the loss of a node, or it dies alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from assent.engine.checkpoint import FOLDER as CHECKPOINTS
from assent.engine.checkpoint import damage
from assent.runs.manifest import step_of
from tests.support.rows import write_rows
from tests.support.stages import PRELOADED, Fault, _main, arguments, told, write_inputs

Argv = Callable[[Mapping[str, str], Path], list[str]]
MOST_SECONDS = 300.0
LORA = ("--lora-r", "2")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A command on tiny inputs. `results`: globs of the files that must be the same to the bit at the end."""

    argv: Argv
    results: tuple[str, ...] = ("model/*.safetensors", "samples.jsonl", "preferences.jsonl")
    processes: int = 1
    metrics: bool = True


def _stage(command: str, *more: str) -> Argv:
    def argv(inputs: Mapping[str, str], folder: Path) -> list[str]:
        return [*arguments(command, inputs, folder), *more]

    return argv


def _sample(inputs: Mapping[str, str], folder: Path) -> list[str]:
    sampling = ["--max-new-tokens", "3", "--max-length", "64", "--num-completions", "2", "--num-shards", "3"]
    return ["sample", "--model", inputs["model"], "--data", inputs["many"], "--output-dir", str(folder), *sampling]


def _score(inputs: Mapping[str, str], folder: Path) -> list[str]:
    reward = ["--reward", "tests.support.stages:letters", "--engine", "local", "--workers", "2"]
    return ["score", "--data", inputs["completions"], "--output-dir", str(folder), *reward]


def _logprobs(inputs: Mapping[str, str], folder: Path) -> list[str]:
    read = ["--logprobs", inputs["model"], "--max-length", "64", "--num-shards", "2"]
    return ["score", "--data", inputs["completions"], "--output-dir", str(folder), *read]


def _eval(inputs: Mapping[str, str], folder: Path) -> list[str]:
    policies = ["--policies.a", inputs["model"], "--policies.b", inputs["model"], "--baseline", "a"]
    judge = ["--judge", "tests.support.stages:letters", "--samples-per-prompt", "2", "--max-new-tokens", "4"]
    return ["eval", *policies, *judge, "--data", inputs["prompts"], "--max-length", "64", "--output-dir", str(folder)]


def _run(inputs: Mapping[str, str], folder: Path) -> list[str]:
    cache = str(folder.parent / "reference")
    common = {"max_length": 64, "max_steps": 3, "batch_size": 4, "save_steps": 1, "learning_rate": 3e-3}
    stages: list[dict[str, Any]] = [
        {"name": "sft", "model": inputs["model"], "data": inputs["demonstrations"]},
        {"name": "dpo", "model": "${sft.model}", "data": inputs["comparisons"], "reference_cache": cache},
    ]
    stages = [{"name": one.pop("name"), "options": {**one, **common}} for one in stages]
    stages = [{**one, "command": one["name"]} for one in stages]
    path = folder.parent / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"name": "killed", "stages": stages}))
    return ["run", str(path), "--output-dir", str(folder)]


SCENARIOS: Mapping[str, Scenario] = {
    **{name: Scenario(_stage(name)) for name in ("sft", "reward", "dpo", "online-dpo", "ppo", "a2c", "grpo", "rloo")},
    "sft lora": Scenario(_stage("sft", *LORA)),
    "dpo lora": Scenario(_stage("dpo", *LORA)),
    "reward lora": Scenario(_stage("reward", *LORA)),
    "ppo lora": Scenario(_stage("ppo", *LORA)),
    "sft, two processes": Scenario(_stage("sft"), processes=2),
    "dpo, two processes": Scenario(_stage("dpo"), processes=2),
    "run": Scenario(_run, ("*/model/*.safetensors",), metrics=False),
    "eval": Scenario(_eval, ("samples.jsonl",), metrics=False),
    "sample, shards": Scenario(_sample, ("completions.jsonl",), metrics=False),
    "score, pool": Scenario(_score, ("scores.jsonl",), metrics=False),
    "logprobs, shards": Scenario(_logprobs, ("logprobs.jsonl",), metrics=False),
}


def inputs_for_kills(folder: Path) -> dict[str, str]:
    """Tiny inputs of all scenarios."""
    inputs = write_inputs(folder)
    write_rows(folder / "many.jsonl", [{"prompt": f"row {i} "} for i in range(150)])
    rows = [{"prompt": f"row {i} ", "completion": "a b"[: i % 4] + "c"} for i in range(600)]
    write_rows(folder / "completions.jsonl", rows)
    return {**inputs, "many": str(folder / "many.jsonl"), "completions": str(folder / "completions.jsonl")}


def begin(argv: Sequence[str], messages: Path, *, processes: int = 1) -> list[BaseProcess]:
    """`assent ARGV` in processes of their own, each the leader of a group."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    environments: list[dict[str, str]] = [{}]
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        size = str(processes)
        common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    started = []
    for environment in environments:
        process = context.Process(target=_lead, args=(list(argv), str(messages), environment))
        process.start()
        started.append(process)
    return started


def _lead(argv: list[str], messages: str, environment: dict[str, str]) -> None:
    os.setsid()
    _main(argv, messages, Fault(), environment)


def kill(processes: Sequence[BaseProcess], *, groups: bool) -> bool:
    """SIGKILL for all of them at once, with what they started if `groups`. Whether any was still alive."""
    alive = [process for process in processes if process.exitcode is None]
    for process in alive:
        assert process.pid is not None
        with suppress(ProcessLookupError):
            (os.killpg if groups else os.kill)(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()
    return bool(alive)


def statuses(processes: Sequence[BaseProcess]) -> list[int | None]:
    """The exit statuses, when all have one."""
    until = time.monotonic() + MOST_SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    if any(process.exitcode is None for process in processes):
        kill(processes, groups=True)
    return [process.exitcode for process in processes]


def outcome(scenario: Scenario, folder: Path) -> dict[str, Any]:
    """What the run leaves and does not depend on time or place, file by file."""
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in scenario.results
        for path in sorted(folder.glob(pattern))
    }
    if scenario.metrics:
        rows = told(folder / "metrics.jsonl")
        found["metrics"] = [{k: v for k, v in row.items() if k != "cost/flops"} for row in rows]
    records = [json.loads(path.read_text()) for path in sorted(folder.rglob("run.json"))]
    assert records or (folder / "pipeline.json").exists(), "no record of a run"
    assert all(record["status"] == "finished" for record in records)
    assert not list(folder.rglob("*.damaged")), "something was damaged"
    return found


def verified_steps(folder: Path) -> dict[str, int]:
    """The newest checkpoint of each run below the folder that is whole."""
    found: dict[str, int] = {}
    for parent in folder.rglob(CHECKPOINTS):
        whole = [
            step for path in parent.glob("step-*") if (step := step_of(path.name)) is not None and damage(path) is None
        ]
        if whole:
            found[str(parent.relative_to(folder))] = max(whole)
    return found


def differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """The names of what two outcomes do not have in common."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


@dataclass(slots=True)
class Verdict:
    """How a seed ended. `fault` is empty for a run that ended to the bit as one that was never killed."""

    seed: int
    scenario: str
    kills: int
    fault: str = ""


class Killer:
    """Keeps each scenario's whole run, and its time, to compare with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "inputs").mkdir(parents=True)
        self.inputs = inputs_for_kills(folder / "inputs")
        self._whole: dict[str, tuple[dict[str, Any], float]] = {}
        statuses(begin(["--version"], folder / "messages"))  # imports what the others are forked with
        os.environ.setdefault("ASSENT_CACHE", str(folder / "cache"))

    def whole(self, name: str) -> tuple[dict[str, Any], float]:
        if name not in self._whole:
            scenario, folder = SCENARIOS[name], self.folder / "whole" / name.replace(" ", "-")
            folder.parent.mkdir(exist_ok=True)
            messages = folder.with_suffix(".log")
            target = folder / "run"
            target.parent.mkdir()
            started = time.monotonic()
            ended = statuses(begin(scenario.argv(self.inputs, target), messages, processes=scenario.processes))
            assert set(ended) == {0}, messages.read_text()
            self._whole[name] = outcome(scenario, target), time.monotonic() - started
        return self._whole[name]

    def try_seed(self, seed: int, name: str | None = None, *, kills: int | None = None) -> Verdict:
        """Kills one to three times, looks at what is left each time, and compares the end."""
        chance = random.Random(seed)
        chosen = chance.choice(list(SCENARIOS))
        name = name or chosen
        expected, seconds = self.whole(name)
        scenario, folder = SCENARIOS[name], self.folder / f"seed-{seed}" / "run"
        folder.parent.mkdir()
        messages, verdict = folder.parent / "messages", Verdict(seed, name, 0)
        argv, known = scenario.argv(self.inputs, folder), dict[str, int]()
        for _ in range(kills or chance.randint(1, 3)):
            processes = begin(argv, messages, processes=scenario.processes)
            time.sleep(chance.uniform(0.0, 1.0) * seconds)
            verdict.kills += kill(processes, groups=chance.random() < 0.5)
            left = verified_steps(folder)
            lost = {place: step for place, step in known.items() if left.get(place, -1) < step}
            if lost:
                verdict.fault = f"verified checkpoints were lost: {lost}, left {left}"
                return verdict
            known = left
        ended = statuses(begin(argv, messages, processes=scenario.processes))
        if set(ended) != {0}:
            verdict.fault = f"exit status {ended}: {messages.read_text()[-2000:]}"
            return verdict
        try:
            found = outcome(scenario, folder)
        except AssertionError as error:
            verdict.fault = f"not as a run that ended: {error}"
            return verdict
        different = differing(found, expected)
        verdict.fault = f"not the same to the bit: {', '.join(different)}" if different else ""
        return verdict
