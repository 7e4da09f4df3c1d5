"""Runs commands in a group of processes, as torchrun starts them, one command after another in the same group."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.support.models import TEXTS, random_model, tiny_model
from tests.support.rows import comparisons, demonstrations, prompts
from tests.support.stages import PRELOADED

PATIENCE_SECONDS = 900
"""Many commands one after another, and several groups side by side; longer than this, and they say where they hang."""
METHODS = {
    "sft": "--data demonstrations",
    "reward": "--data comparisons",
    "dpo": "--data comparisons --reference other",
    "kto": "--data comparisons --split-comparisons --reference other",
    "ppo": "--data prompts --num-completions 2 --reward rm",
    "grpo": "--data prompts --num-completions 3 --reward tests.support.stages:brevity --reward-processes each "
    "--reference other --kl-penalty k3",
    "online-dpo": "--data prompts --num-completions 3 --reward tests.support.stages:letters --reference other",
}
SAMPLES = ("ppo", "grpo", "online-dpo")
LEARNING_RATE = 0.1
"""Large, so that the rounding of weights near one is small beside an update."""


def write_inputs(folder: Path) -> dict[str, str]:
    """Names in `METHODS`, and the paths that they stand for."""
    from assent.models.loading import load_config, load_tokenizer
    from assent.models.saving import save_model

    model = tiny_model(folder / "model", texts=TEXTS)
    paths = {"model": model, "other": tiny_model(folder / "other", texts=TEXTS, seed=1)}
    scorer = random_model(load_config(model), kind="scorer", seed=2, scale=4.0)
    paths["rm"] = str(save_model(folder / "rm", scorer, load_tokenizer(model)))
    writers = {"demonstrations": demonstrations, "comparisons": comparisons, "prompts": prompts}
    return paths | {name: str(write(folder / f"{name}.jsonl", 10)) for name, write in writers.items()}


def arguments(
    method: str, inputs: Mapping[str, str], output_dir: Path, *, adapter: bool, steps: int = 1, seed: int = 0
) -> list[str]:
    """`assent METHOD`: one update, of the weights or of an adapter."""
    given = [inputs.get(word, word) for word in METHODS[method].split()]
    argv = [method, "--model", inputs["model"], "--output-dir", str(output_dir), "--max-length", "64", *given]
    argv += ["--learning-rate", str(LEARNING_RATE), "--adam-epsilon", "1e-2", "--batch-size", "5", "--seed", str(seed)]
    argv += ["--lr-scheduler-type", "constant", "--save-steps", "0"]
    argv += ["--total-steps" if method in SAMPLES else "--max-steps", str(steps)]
    argv += ["--max-new-tokens", "6"] if method in SAMPLES else []
    argv += ["--reference-cache", f"{output_dir}.cache"] if method in ("dpo", "kto") else []  # read, not found
    return [*argv, "--lora-r", "4"] if adapter else argv


class Group:
    """So many processes that run commands one after another. What they print goes to files in `folder`."""

    def __init__(self, number: int, folder: Path, commands: Sequence[Sequence[str]], **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.logs = [folder / f"rank {rank}" for rank in range(number)]
        self.processes: list[BaseProcess] = []
        for rank in range(number):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
            own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"} | environment  # type: ignore[dict-item]
            told = {key: str(value) for key, value in own.items()}
            process = context.Process(target=_main, args=(told, str(self.logs[rank]), [list(c) for c in commands]))
            process.start()
            self.processes.append(process)

    def ended(self) -> list[int | None]:
        """Exit statuses, when all have one: 0, or that of the first command that failed."""
        until = time.monotonic() + PATIENCE_SECONDS + 30
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
                process.join()
        return [process.exitcode for process in self.processes]

    def said(self) -> list[str]:
        return [log.read_text() for log in self.logs]


def _main(environment: dict[str, str], log: str, commands: list[list[str]]) -> None:
    os.environ.update(environment)
    with open(log, "a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare = os.environ.get("PREPARE")
    if prepare:
        module, _, function = prepare.partition(":")
        __import__(module)
        getattr(sys.modules[module], function)()
    from assent.cli import main

    for argv in commands:
        if status := main(argv):
            sys.exit(status)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run's result: an adapter's, or all."""
    adapter = run / "model" / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else run / "model" / "model.safetensors")


def differences(found: Path, expected: Path, start: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """For each weight that a run changed the largest difference of two runs' changes, beyond what rounding a weight to
    float32 makes, as a share of the largest change. An adapter is compared as a whole, as far as it is not zero."""
    ours, theirs = weights_of(found), weights_of(expected)
    assert ours.keys() == theirs.keys()
    apart = {}
    for name, weight in theirs.items():
        update = (weight - start[name] if name in start else weight).abs().max()
        beyond = (ours[name] - weight).abs() - torch.finfo(torch.float32).eps * weight.abs()
        if float(update) > 0 or not torch.equal(ours[name], weight):
            apart[name] = float(beyond.clamp(min=0).max() / update.clamp(min=1e-12))
    return apart


def first_metrics(run: Path) -> dict[str, Any]:
    """The line of the first step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(row for row in rows if row["step"] == 1)
