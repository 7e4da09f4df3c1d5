"""How much memory does each process take to load a model and to make a step, replicated and sharded?

    python benchmarks/sharded_load.py [--width 1024] [--layers 8] [--processes 4] [--dtype-in-file float32]

Writes a random Llama, then starts `torchrun` with DPO's learner on it: load, wrap, one update, with LoRA and without.
Each process looks at its own memory every 5 ms. Prints one JSON document: the bytes of the weights, and for each way
and moment the largest process's peak of private memory (RssAnon) above what it had before the model, in MiB. Pages of
the mapped file are not in it: the system shares them between processes and takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import assent  # first: it says how OpenMP's threads wait

# isort: split
import torch

from assent.config.loading import parse_options
from assent.config.stages import SftConfig
from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.engine.sharding import choose_sharding
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.loading import load_config, load_tokenizer
from assent.models.new_model import new_model
from assent.stages.model_loading import load_trained_modules
from assent.stages.sft import SftObjective

WAYS = [("replicate", 0), ("shard", 0), ("replicate", 8), ("shard", 8)]
"""Sharding, and the rank of an adapter (0: all weights are trained)."""


class Peak:
    """The largest private memory of this process since `begin`, in MiB."""

    def __init__(self) -> None:
        self.highest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def now(self) -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

    def begin(self) -> None:
        self.highest = self.now()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.highest = max(self.highest, self.now())


def child(options: argparse.Namespace) -> None:
    """One process of one way: writes its peaks."""
    torch.set_num_threads(1)
    peak = Peak()
    more = {"lora_r": options.lora_r} if options.lora_r else {}
    given = {"model": options.model, "data": "-", "output_dir": options.out, "sharding": options.sharding, **more}
    config = parse_options(SftConfig, {**given, "device": "cpu"})
    runtime = Runtime.of(config)
    choose_sharding(config, runtime, load_config(options.model))
    tokenizer = load_tokenizer(options.model)
    before = peak.now()
    peak.begin()
    loaded = load_trained_modules(
        config, options.model, "policy", tokenizer, Path(options.out), name="model", runtime=runtime
    )
    module, _ = loaded["model"]
    learner = Learner(module, runtime=runtime, optim=config, total_steps=10)
    time.sleep(0.02)
    found = {"load": peak.highest - before, "held": peak.now() - before}
    peak.begin()
    group = TokenGroup((1, 2, 3), (TokenCompletion(tuple(range(4, 20))),))
    learner.update([group] * runtime.num_processes, SftObjective())
    time.sleep(0.02)
    found["step"] = peak.highest - before
    told = runtime.from_each(found)
    if runtime.is_main:
        Path(options.out, "found.json").write_text(json.dumps(told), encoding="utf-8")
    torch.distributed.destroy_process_group()


def measured(folder: Path, model: Path, sharding: str, lora_r: int, processes: int) -> dict[str, float]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    own = ["--child", "--model", str(model), "--out", str(folder), "--sharding", sharding, "--lora-r", str(lora_r)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, __file__, *own], check=True, env=environment, stdout=subprocess.DEVNULL)
    told: list[dict[str, float]] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return {name: round(max(one[name] for one in told), 1) for name in told[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--dtype-in-file", choices=["float32", "bfloat16"], default="float32")
    for name in ("--model", "--out", "--sharding"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--lora-r", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        model, size = written(at, options)
        ways: dict[str, Any] = {}
        for sharding, rank in WAYS:
            name = f"{sharding}, {f'LoRA of rank {rank}' if rank else 'all weights'}"
            ways[name] = measured(at, model, sharding, rank, options.processes)
    print(json.dumps({"processes": options.processes, "weights_mib": size, "ways": ways}, indent=1))


def written(folder: Path, options: argparse.Namespace) -> tuple[Path, float]:
    """A random model's folder, and the MiB of its weights in float32."""
    texts = [f"{i} and {i} is {2 * i}" for i in range(200)]
    sizes = {"hidden_size": options.width, "layers": options.layers, "heads": options.width // 64, "context": 128}
    new_model(folder / "model", texts=texts, vocab_size=options.vocabulary, seed=0, **sizes)
    if options.dtype_in_file == "bfloat16":
        from assent.models.loading import load_policy
        from assent.models.saving import save_model

        save_model(folder / "model", load_policy(folder / "model", dtype="bfloat16"), load_tokenizer(folder / "model"))
    stored = sum(file.stat().st_size for file in (folder / "model").glob("*.safetensors"))
    return folder / "model", round(stored * (2 if options.dtype_in_file == "bfloat16" else 1) / 2**20, 1)


if __name__ == "__main__":
    assert assent.__version__
    main()
