"""Predicted against measured peak memory: how far is the plan from the truth?

    python benchmarks/plan_memory.py --results out/plan_memory --models 8m --lengths 128 512 --stages sft dpo

For each stage (SFT, reward, DPO, PPO), adapter, model (random weights of 8 M and 30 M, or a folder), length of rows and
token budget, one short training command runs in a process of its own. Measured is the process's peak above what it
held once the packages were imported; predicted is what the run itself wrote down before it loaded the model. Kept
results are not measured again. Prints one JSON document with every cell, and the errors' median and worst.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from sandbox import platform_name

MODELS = {"8m": (4096, 256, 8, 4), "30m": (8192, 512, 8, 8)}
"""Vocabulary, width, layers, heads."""
STAGES = ("sft", "reward", "dpo", "ppo")
ADAPTERS = ("full", "lora", "one")
"""All weights; an adapter; for PPO also adapters on one trunk."""
LENGTHS, BUDGETS = (128, 512, 2048, 4096), (2048, 8192)
STEPS, BATCH_TOKENS = 2, 2
"""Updates, and how many times the budget each reads."""
RANK = 16
SYLLABLES = [a + b for a in "bcdfghklmnprstvw" for b in "aeiou"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, help="folder of models, data and kept results")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="8m, 30m, or a model's folder")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--adapters", nargs="+", default=list(ADAPTERS), choices=ADAPTERS)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        return measure(json.loads(args.cell))
    folder = Path(args.results)
    folder.mkdir(parents=True, exist_ok=True)
    cells = [measured(cell, folder) for cell in chosen(args)]
    errors = {name_of(cell): cell["predicted"] / cell["measured"] - 1 for cell in cells}
    sizes = sorted(abs(error) for error in errors.values())
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "assent")},
        "cells": cells,
        "errors": errors,
        "median_error": statistics.median(sizes),
        "worst_error": sizes[-1],
        "most_below": min(errors.values()),
    }
    print(json.dumps(document, indent=1))


def chosen(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The cells that the flags choose, small ones first."""
    for length, model, budget, stage, adapter in product(
        sorted(args.lengths), args.models, args.budgets, args.stages, args.adapters
    ):
        if adapter != "one" or stage == "ppo":
            yield {"stage": stage, "adapter": adapter, "model": model, "length": length, "budget": budget}


def name_of(cell: dict[str, Any]) -> str:
    return "-".join(str(cell[key]).replace("/", "_") for key in ("stage", "adapter", "model", "length", "budget"))


def measured(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The cell with its peaks, kept or from a process of its own."""
    kept = folder / f"{name_of(cell)}.json"
    if not kept.exists():
        model = model_of(cell["model"], folder)
        request = {**cell, "folder": str(model), "work": str(folder / "work")}
        if cell["stage"] == "ppo":
            request["reward"] = reward_of(cell, model, folder)
        command = [sys.executable, __file__, "--results", str(folder), "--cell", json.dumps(request)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ASSENT_CACHE": str(folder / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(f"{name_of(cell)} failed:\n{done.stderr[-2000:]}")
        kept.write_text(done.stdout.strip().splitlines()[-1])
    found = {**cell, **json.loads(kept.read_text())}
    error = found["predicted"] / found["measured"] - 1
    print(f"{name_of(cell)}: {found['measured'] / 1e6:.0f} MB, predicted {error:+.1%}", file=sys.stderr)
    return found


def model_of(name: str, folder: Path) -> Path:
    """The model's folder; made once, if it is one of MODELS."""
    if name not in MODELS:
        return Path(name)
    path = folder / name
    if not path.exists():
        import assent  # noqa: F401  # first: it says how OpenMP's threads wait
        from assent.models.new_model import new_model

        vocabulary, width, layers, heads = MODELS[name]
        sizes = {"vocab_size": vocabulary, "hidden_size": width, "layers": layers, "heads": heads, "context": 8192}
        new_model(path, texts=[words(random.Random(i), 60) for i in range(3000)], seed=0, **sizes)
    return path


def words(rng: random.Random, number: int) -> str:
    return " ".join("".join(rng.choice(SYLLABLES) for _ in range(rng.choice((1, 2, 2, 3)))) for _ in range(number))


def measure(cell: dict[str, Any]) -> None:
    """Runs one training command in this process, which has imported what it needs, and prints both peaks."""
    import assent

    # isort: split
    import peft  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: F401

    import assent.stages.online
    import assent.stages.preference
    import assent.stages.reward
    import assent.stages.sft
    from assent.engine.peak_memory import PeakMemory
    from assent.models.loading import load_tokenizer

    work = Path(cell["work"]) / name_of(cell)
    work.mkdir(parents=True, exist_ok=True)
    rows = max(2, BATCH_TOKENS * cell["budget"] // cell["length"])
    data = write_rows(work / "data.jsonl", cell, load_tokenizer(cell["folder"]), rows * STEPS)
    options = options_of(cell, data, rows)
    peak = PeakMemory(torch.device("cpu"))
    started = time.perf_counter()
    run = work / f"run-{time.time_ns()}"
    getattr(assent, cell["stage"])(**options, output_dir=str(run))
    seconds, highest = time.perf_counter() - started, peak.bytes - peak.before
    plan = json.loads((run / "run.json").read_text())["facts"]["plan"]
    found = {"measured": highest, "predicted": plan["memory_bytes"], "moment": plan["moment"], "seconds": seconds}
    print(json.dumps({**found, "planned_seconds": plan["seconds"], "threads": torch.get_num_threads()}))


def options_of(cell: dict[str, Any], data: Path, rows: int) -> dict[str, Any]:
    """Of the command that the cell runs, without checkpoints."""
    options: dict[str, Any] = {"model": cell["folder"], "data": str(data), "device": "cpu", "save_steps": 0}
    options |= {"micro_batch_tokens": cell["budget"], "max_length": cell["length"], "batch_size": rows, "stop": False}
    if cell["adapter"] != "full":
        options["lora_r"] = RANK
    if cell["stage"] != "ppo":
        return {**options, "max_steps": STEPS}
    options |= {"reward": cell["reward"], "total_steps": STEPS, "num_ppo_epochs": 1, "num_completions": 1}
    options |= {"trunk": "one"} if cell["adapter"] == "one" else {}
    return {**options, "max_new_tokens": cell["length"] // 2}


def write_rows(path: Path, cell: dict[str, Any], tokenizer: Any, number: int) -> Path:
    """Rows whose prompt and whose completions each have about half of the cell's length in tokens."""
    rng = random.Random(0)
    half = cell["length"] // 2 - 4

    def text() -> str:
        ids = tokenizer(words(rng, half), add_special_tokens=False)["input_ids"]
        return tokenizer.decode(ids[:half])

    with path.open("w") as file:
        for _ in range(number):
            row = {"prompt": text()}
            if cell["stage"] == "sft":
                row["completion"] = text()
            elif cell["stage"] != "ppo":
                row |= {"chosen": text(), "rejected": text()}
            file.write(json.dumps(row) + "\n")
    return path


def reward_of(cell: dict[str, Any], model: Path, folder: Path) -> str:
    """A reward model for PPO, trained for one step in a process of its own: an adapter for one trunk."""
    adapted = cell["adapter"] == "one"
    path = folder / f"reward-{model.name}-{'adapter' if adapted else 'whole'}"
    if not (path / "model").exists():
        small = {**cell, "stage": "reward", "length": 64, "folder": str(model)}
        from assent.models.loading import load_tokenizer

        folder.mkdir(exist_ok=True)
        data = write_rows(folder / "reward.jsonl", small, load_tokenizer(model), 4)
        command = [sys.executable, "-m", "assent", "reward", "--model", str(model), "--data", str(data), "--json"]
        command += ["--max-steps", "1", "--batch-size", "2", "--output-dir", str(path)]
        command += ["--lora-r", str(RANK)] if adapted else []
        subprocess.run(command, check=True, capture_output=True)
    return str(path / "model")


if __name__ == "__main__":
    main()
