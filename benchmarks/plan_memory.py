"""Predicted against measured peak memory and time: how far is the plan from the truth?

    python benchmarks/plan_memory.py --results out/plan_memory --minutes 15 --table
    python benchmarks/plan_memory.py --results out/plan_memory --minutes 15 --table --models out/smollm2-base \\
        --adapters lora --budgets 2048 --lengths 128 256 512 1024

For each stage (SFT, reward, DPO, PPO), adapter, model (random weights of 8 M and 30 M, or a folder), length of rows and
token budget, one short training command runs in a process of its own. Measured is the process's peak above what it
held once the packages were imported; predicted is what the run itself wrote down before it loaded the model. Time is
what the run's ledger has, beside the range that it wrote down; this machine is calibrated first, in the results' cache.

Kept results are not measured again, and a cell that failed is. The most telling cells come first: the shortest and a
long length on the smaller budget. --minutes starts no cell that would end later, so that the same command, given again,
does the grid in parts; --dry-run lists what is left with the seconds to expect. Prints one JSON document with every
kept cell, the errors' median, worst and lowest, their trend with length, and how often the range of time held; --table
prints it as Markdown. Exit status 1 if a cell failed. Keep one folder for each state of the code.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from sandbox import platform_name

Cell = dict[str, Any]

MODELS = {"8m": (4096, 256, 8, 4), "30m": (8192, 512, 8, 8)}
"""Vocabulary, width, layers, heads."""
STAGES = ("sft", "reward", "dpo", "ppo")
ADAPTERS = ("full", "lora", "one")
"""All weights; an adapter; for PPO also adapters on one trunk."""
LENGTHS, BUDGETS = (128, 2048, 512, 4096), (2048, 8192)
"""The first two lengths say most about a trend."""
STEPS, BATCH_TOKENS, ROLLOUT_TOKENS = 2, 2, 3
"""Updates, and how many times the budget each reads. A random model ends a completion by chance (one token in 4,096 or
8,192), so a round has more rows: those that were not cut short fill the largest passes."""
FEWEST_ROWS = {"ppo": 6}
RANK = 16
SYLLABLES = [a + b for a in "bcdfghklmnprstvw" for b in "aeiou"]
START_SECONDS, RATE = 15.0, 60e9
"""Of a process with its imports and probes, and FLOPs a second: for --minutes alone."""
PASSES = {"sft": 6, "reward": 6, "dpo": 8, "ppo": 24}
"""FLOPs for each weight and token, roughly, with all that is read and sampled."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, help="folder of models, data and kept results")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="8m, 30m, or a model's folder")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--adapters", nargs="+", default=list(ADAPTERS), choices=ADAPTERS)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no cell that would end later")
    parser.add_argument("--dry-run", action="store_true", help="list the cells that are left, and measure nothing")
    parser.add_argument("--table", action="store_true", help="print Markdown instead of JSON")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        return measure(json.loads(args.cell))
    folder, cells = Path(args.results), chosen(args)
    left = [cell for cell in cells if not kept_at(cell, folder).exists()]
    if args.dry_run:
        for cell in left:
            print(f"{name_of(cell)}: {expected_seconds(cell):.0f} s")
        print(f"{len(left)} of {len(cells)} cells are left, {sum(map(expected_seconds, left)) / 60:.0f} minutes or so")
        return
    failed = measure_all(left, folder, minutes=args.minutes)
    done = [
        {**cell, **json.loads(kept_at(cell, folder).read_text())} for cell in cells if kept_at(cell, folder).exists()
    ]
    if not done:
        sys.exit("nothing was measured" + "".join(f"\n{name}: {text}" for name, text in failed.items()))
    document = document_of(done, left=len(cells) - len(done), failed=failed)
    print("\n".join(table_of(document)) if args.table else json.dumps(document, indent=1))
    sys.exit(bool(failed))


def chosen(args: argparse.Namespace) -> list[Cell]:
    """The cells that the flags choose, those of the smaller budget and of the first lengths first."""
    return [
        {"stage": stage, "adapter": adapter, "model": model, "length": length, "budget": budget}
        for budget, length, model, stage, adapter in product(
            sorted(args.budgets), args.lengths, args.models, args.stages, args.adapters
        )
        if adapter != "one" or stage == "ppo"
    ]


def name_of(cell: Cell) -> str:
    return "-".join(str(cell[key]).replace("/", "_") for key in ("stage", "adapter", "model", "length", "budget"))


def kept_at(cell: Cell, folder: Path) -> Path:
    return folder / f"{name_of(cell)}.json"


def rows_of(cell: Cell) -> int:
    """Rows of an update, or prompts of a round."""
    stage = cell["stage"]
    budgets = ROLLOUT_TOKENS if stage == "ppo" else BATCH_TOKENS
    return max(FEWEST_ROWS.get(stage, 2), budgets * cell["budget"] // cell["length"])


def expected_seconds(cell: Cell) -> float:
    """To a factor of two or so."""
    if cell["model"] in MODELS:
        vocabulary, width, layers, _ = MODELS[cell["model"]]
        weights = vocabulary * width + layers * 12 * width**2
    else:
        from assent.models.shape import ModelShape

        weights = ModelShape.of(cell["model"]).num_parameters
    tokens = rows_of(cell) * cell["length"] * (1.5 if cell["stage"] in ("reward", "dpo") else 1.0)
    passes = PASSES[cell["stage"]] * (1.0 if cell["adapter"] == "full" else 2 / 3)
    return START_SECONDS + STEPS * tokens * weights * passes / RATE


def measure_all(cells: Sequence[Cell], folder: Path, *, minutes: float) -> dict[str, str]:
    """Measures the cells until the time is used up, one at least, and keeps each. Returns why others failed."""
    began, failed = time.monotonic(), {}
    for number, cell in enumerate(cells):
        if number and time.monotonic() - began + expected_seconds(cell) > 60 * minutes:
            print(f"{len(cells) - number} cells are left; the same command goes on", file=sys.stderr)
            break
        calibrate(folder)
        error = measure_one(cell, folder)
        if error:
            failed[name_of(cell)] = error
            print(f"{name_of(cell)} failed:\n{error}", file=sys.stderr)
            continue
        found = json.loads(kept_at(cell, folder).read_text())
        error_share = found["predicted"] / found["measured"] - 1
        print(f"{name_of(cell)}: {found['measured'] / 1e6:.0f} MB, predicted {error_share:+.1%}", file=sys.stderr)
    return failed


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "ASSENT_CACHE": str(folder / "cache")}


def calibrate(folder: Path) -> None:
    """Measures this machine's rates once, for the ranges of time."""
    cache = folder / "cache"
    if not any(cache.rglob("calibration.json")):
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "assent", "plan", "--calibrate"]
        subprocess.run(command, check=True, capture_output=True, env=environment(folder))


def measure_one(cell: Cell, folder: Path) -> str:
    """Measures the cell in a process of its own and keeps what it found. Returns why it failed; empty if it did not."""
    model = model_of(cell["model"], folder)
    request = {**cell, "folder": str(model), "work": str(folder / "work")}
    if cell["stage"] == "ppo":
        request["reward"] = reward_of(cell, model, folder)
    command = [sys.executable, __file__, "--results", str(folder), "--cell", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(folder))
    if done.returncode:
        return done.stderr[-2000:] or f"ended with {done.returncode}"
    kept_at(cell, folder).write_text(done.stdout.strip().splitlines()[-1])
    return ""


def document_of(cells: Sequence[Cell], *, left: int, failed: Mapping[str, str]) -> dict[str, Any]:
    """What the kept cells say."""
    threads = {cell["threads"] for cell in cells}
    if len(threads) > 1:
        sys.exit(f"the kept results are of different numbers of threads: {sorted(threads)}; give another --results")
    errors = [cell["predicted"] / cell["measured"] - 1 for cell in cells]
    timed = [cell for cell in cells if cell["planned_seconds"]]
    held = [low <= cell["seconds"] <= high for cell in timed for low, high in [cell["planned_seconds"]]]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform_name(), "cores": os.cpu_count(), "threads": threads.pop()},
        "versions": {name: version(name) for name in ("torch", "transformers", "assent")},
        "cells": [{**cell, "error": error} for cell, error in zip(cells, errors, strict=True)],
        "left": left,
        "failed": dict(failed),
        "median_error": statistics.median(map(abs, errors)),
        "worst_error": max(map(abs, errors)),
        "most_below": min(errors),
        "trend": trend_of([cell["length"] for cell in cells], errors),
        "time_in_range": sum(held) / len(held) if held else None,
        "runs_with_a_time": len(held),
    }


def trend_of(lengths: Sequence[int], errors: Sequence[float]) -> list[float] | None:
    """How much the error grows when the length doubles, and the ends of its 95% interval; None: too few lengths."""
    from scipy import stats

    if len(set(lengths)) < 2 or len(lengths) < 4:
        return None
    fit = stats.linregress([math.log2(length) for length in lengths], errors)
    half = float(stats.t.ppf(0.975, len(lengths) - 2)) * float(fit.stderr)
    return [float(fit.slope), float(fit.slope) - half, float(fit.slope) + half]


def table_of(document: Mapping[str, Any]) -> list[str]:
    """As Markdown: predicted against measured for each stage and length, the worst of the models' and budgets'."""
    cells = document["cells"]
    lengths = sorted({cell["length"] for cell in cells})
    lines = ["| stage | " + " | ".join(f"{length:,} tokens" for length in lengths) + " |"]
    lines.append("|---|" + "---|" * len(lengths))
    for stage, adapter in product(STAGES, ADAPTERS):
        own = [cell for cell in cells if (cell["stage"], cell["adapter"]) == (stage, adapter)]
        found = [[c["error"] for c in own if c["length"] == length] for length in lengths]
        shown = [f"{min(some):+.1%} to {max(some):+.1%}" if some else "-" for some in found]
        if own:
            lines.append(f"| {stage}, {adapter} | " + " | ".join(shown) + " |")
    lines += ["", f"{len(cells)} runs on {document['machine']['threads']} threads, {document['date']}; "
              f"{document['left']} left, {len(document['failed'])} failed. Error of the peak: median "
              f"{document['median_error']:.1%}, worst {document['worst_error']:.1%}, lowest "
              f"{document['most_below']:+.1%}."]  # fmt: skip
    if (trend := document["trend"]) is not None:
        lines.append(f"When the length doubles the error moves by {trend[0]:+.1%} [{trend[1]:+.1%}, {trend[2]:+.1%}].")
    if document["time_in_range"] is not None:
        lines.append(
            f"Time was in its range in {document['time_in_range']:.0%} of {document['runs_with_a_time']} runs."
        )
    return lines


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


def measure(cell: Cell) -> None:
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
    rows = rows_of(cell)
    data = write_rows(work / "data.jsonl", cell, load_tokenizer(cell["folder"]), rows * STEPS)
    options = options_of(cell, data, rows)
    peak = PeakMemory(torch.device("cpu"))
    run = work / f"run-{time.time_ns()}"
    getattr(assent, cell["stage"])(**options, output_dir=str(run))
    highest = peak.bytes - peak.before
    plan = json.loads((run / "run.json").read_text())["facts"]["plan"]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    found = {
        "measured": highest,
        "predicted": plan["memory_bytes"],
        "moment": plan["moment"],
        "seconds": last["cost/seconds"],
        "planned_seconds": plan["seconds"],
        "threads": torch.get_num_threads(),
        "completion_length": last.get("rollout/completion_length"),
    }
    print(json.dumps(found))


def options_of(cell: Cell, data: Path, rows: int) -> dict[str, Any]:
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


def write_rows(path: Path, cell: Cell, tokenizer: Any, number: int) -> Path:
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


def reward_of(cell: Cell, model: Path, folder: Path) -> str:
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
