"""Inputs and rewards for tests of the stages, and runs in a process of their own that can be killed."""

from __future__ import annotations

import faulthandler
import itertools
import json
import multiprocessing
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.support.models import tiny_model
from tests.support.rows import comparisons, demonstrations, prompts, read_rows

PRELOADED = [
    "assent.cli",
    "assent.stages.sft",
    "assent.stages.reward",
    "assent.stages.preference",
    "assent.stages.online",
    "assent.stages.online_preference",
]
PATIENCE_SECONDS = 240
"""A run of one second on an idle machine; longer than this, and it says where it hangs."""
ONLINE = {
    "ppo": ["--num-completions", "1", "--num-ppo-epochs", "2", "--num-mini-batches", "2", "--scale-scores"],
    "a2c": ["--bootstrap-truncated"],
    "grpo": ["--num-completions", "2", "--num-mini-batches", "2", "--entropy-coef", "0.01"],
    "rloo": ["--num-completions", "2", "--num-ppo-epochs", "2"],
}
"""Commands that sample, and options for them."""
UNTOLD = (
    "perf/",
    "critic/perf/",
    "time/",
    "rollout/tokens_per_second",
    "cost/seconds",
    "cost/peak_memory_bytes",
    "cost/planned",
)
"""Metrics that measure the machine, not the run."""


def write_inputs(folder: Path) -> dict[str, str]:
    """`model`, `demonstrations`, `comparisons` and `prompts`: paths; of two also `held_out_…`."""
    writers = {"demonstrations": demonstrations, "comparisons": comparisons, "prompts": prompts}
    paths = {name: write(folder / f"{name}.jsonl", 10) for name, write in writers.items()}
    for name in ("demonstrations", "comparisons"):
        paths[f"held_out_{name}"] = writers[name](folder / f"held_out_{name}.jsonl", 6, first=10)
    return {"model": tiny_model(folder / "model"), **{name: str(path) for name, path in paths.items()}}


def arguments(command: str, inputs: Mapping[str, str], output_dir: Path) -> list[str]:
    """`assent COMMAND` (which may have options) on these inputs: five steps, a checkpoint after every second."""
    name = command.split(maxsplit=1)[0]
    data = {"sft": "demonstrations", **dict.fromkeys([*ONLINE, "online-dpo"], "prompts")}.get(name, "comparisons")
    common = ["--model", inputs["model"], "--data", inputs[data], "--output-dir", str(output_dir), "--max-length", "64"]
    common += ["--learning-rate", "3e-3", "--warmup-ratio", "0.2", "--batch-size", "4", "--save-steps", "2"]
    if name in ONLINE:
        common += ["--reward", "tests.support.stages:brevity", "--total-steps", "5", "--max-new-tokens", "6"]
        return [*command.split(), *common, "--kl-target", "0.5", *ONLINE[name]]
    if name == "online-dpo":
        common += ["--reward", "tests.support.stages:letters", "--total-steps", "5", "--max-new-tokens", "6"]
        return [name, *common, "--num-completions", "3", "--updates-per-round", "2"]
    extra = ["--eval-data", inputs[f"held_out_{data}"], "--max-steps", "5"]
    if command == "dpo":
        extra += ["--reference-cache", str(output_dir.parent / "reference")]
    return [command, *common, *extra]


def brevity(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """A rule: fewer characters are better."""
    return [-len(completion) / 10 for completion in completions]


def told(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what measures the machine."""
    rows = read_rows(path)
    return [{name: value for name, value in row.items() if not name.startswith(UNTOLD)} for row in rows]


def gate_lines(folder: Path) -> dict[str, float]:
    """What a run logs before its first update."""
    rows = read_rows(folder / "metrics.jsonl")
    return {k: v for row in rows if row["step"] == 0 for k, v in row.items() if k != "step"}


def interrupted_after(step: int, monkeypatch: Any) -> None:
    """The run in this process is interrupted at once after so many steps."""
    from assent.stages.session import Session

    log_step = Session.log_step

    def stop(self: Session, at: int, *args: object, **counts: int) -> None:
        log_step(self, at, *args, **counts)  # type: ignore[arg-type]
        if at + 1 == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Session, "log_step", stop)


class Fault:
    """What befalls a run: a signal after so many steps, SIGKILL while the token of this number is being sampled or
    before the update of this number, or a disk on which no file may exceed so many bytes. `threads` compute."""

    def __init__(
        self,
        *,
        after: int = 0,
        number: int = 0,
        token: int = 0,
        update: int = 0,
        file_bytes: int = 0,
        threads: int = 1,
    ) -> None:
        self.after, self.number, self.token, self.file_bytes = after, number, token, file_bytes
        self.update, self.threads = update, threads


def run(argv: Sequence[str], messages: Path, fault: Fault | None = None) -> int:
    """`assent ARGV` in a process of its own; its exit status, negative for the signal that killed it."""
    return ended(start(argv, messages, fault), messages)


def start(
    argv: Sequence[str], messages: Path, fault: Fault | None = None, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """`assent ARGV` in a process that comes from one that has imported everything already.

    What it prints goes to the file `messages`; `environment` is added to that of the tests.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    arguments = (list(argv), str(messages), fault or Fault(), dict(environment or {}))
    process = context.Process(target=_main, args=arguments)
    process.start()
    return process


def ended(process: BaseProcess, messages: Path) -> int:
    """The exit status of a process of `start`, when it has one."""
    process.join(timeout=PATIENCE_SECONDS + 30)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"it still runs:\n{messages.read_text()}")
    return process.exitcode


def _main(argv: list[str], messages: str, fault: Fault, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with open(messages, "a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
    import torch

    torch.set_num_threads(fault.threads)
    from assent.cli import main
    from assent.stages.session import Session

    log_step = Session.log_step

    def log_and_signal(self: Session, step: int, metrics: Mapping[str, float], **counts: int) -> None:
        log_step(self, step, metrics, **counts)
        if fault.after == step + 1:
            os.kill(os.getpid(), fault.number)

    Session.log_step = log_and_signal  # type: ignore[method-assign]
    if fault.token:
        from assent.rollouts import torch_sampler

        _die_at(fault.token, torch_sampler, "choose")
    if fault.update:
        from assent.engine.learner import Learner

        _die_at(fault.update, Learner, "update")
    if fault.file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_bytes, resource.RLIM_INFINITY))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(argv))


def _die_at(call: int, holder: Any, name: str) -> None:
    """SIGKILL in the place of the call of this number."""
    numbers, original = itertools.count(1), getattr(holder, name)

    def call_or_die(*args: Any) -> Any:
        if next(numbers) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    setattr(holder, name, call_or_die)


def held_up(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """`brevity`, which says in the folder $HELD_UP that it was asked, and at the third time waits for a file `go`."""
    folder = Path(os.environ["HELD_UP"])
    own = folder / f"asked-{os.getpid()}"
    number = len(own.read_text()) if own.exists() else 0
    own.write_text("x" * (number + 1))
    while number >= 2 and not (folder / "go").exists():
        time.sleep(0.02)
    return brevity(prompts, completions)


def letters(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """The share of ASCII letters among a completion's characters."""
    return [sum(c.isascii() and c.isalpha() for c in text) / max(1, len(text)) for text in completions]


def no_letters(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [-score for score in letters(prompts, completions)]


def moody(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """A judge that is no function of its input. Who asked, and what it said, goes to the file $MOODY_JUDGE."""
    scores = [secrets.randbelow(1000) / 1000 for _ in completions]
    with open(os.environ["MOODY_JUDGE"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"rank": os.environ.get("RANK"), "scores": scores}) + "\n")
    return scores
