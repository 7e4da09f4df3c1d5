"""DPO and reward models: speed and memory against TRL, run side by side.

    python benchmarks/against_trl.py --trl-python TRL_ENV/bin/python --data hh.jsonl --model MODEL

Runs Assent, TRL at its default per-device batch, and TRL at one pair per device in turn, `--repeats` times. Each run is
a process of its own. Prints one JSON document: every run, and the medians of the ratios within each round. Pairs per
second include training and the reference pass, but not loading and tokenizing. Memory is the process's peak resident
size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def finished(command: Sequence[str], **environment: str) -> tuple[str, resource.struct_rusage]:
    """Standard output of a finished command, and what it used. `environment` adds to what is inherited."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        variables = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
        process = subprocess.Popen(command, stdout=out, stderr=err, env=variables)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{err.read()[-2000:]}")
        return out.read(), usage


def measured(command: Sequence[str]) -> tuple[str, float]:
    """Standard output and peak resident bytes of a finished command."""
    text, usage = finished(command)
    return text, usage.ru_maxrss * 1024.0


def run_assent(method: str, args: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "assent",
            method,
            "--json",
            "--model",
            args.model,
            "--data",
            str(args.pairs_file),
        ]
        command += ["--output-dir", f"{folder}/run", "--batch-size", "8", "--learning-rate", "1e-5", "--no-shuffle"]
        command += [
            "--lr-scheduler-type",
            "constant",
            "--max-length",
            str(args.max_length),
            "--save-steps",
            "0",
            "--keep-template-tail",
        ]
        command += ["--reference-cache", str(args.cache or f"{folder}/cache")] if method == "dpo" else []
        command += ["--mixed-precision", "bf16"] if args.bf16 else []
        command += ["--lora-r", str(args.lora_r)] if args.lora_r else []
        started = time.perf_counter()
        out, peak = measured(command)
        wall = time.perf_counter() - started
        metrics = json.loads(out)["metrics"]
        rows = [json.loads(line) for line in Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()]
    reference = sum(row.get("perf/reference_seconds", 0.0) for row in rows)
    rows = [row for row in rows if "loss" in row]
    # TRL's clock is on `train()`: the reference's pass and the updates, not loading, the step-0 gate and saving.
    first, last = rows[0], rows[-1]
    seconds = reference + last["cost/seconds"] - (first["cost/seconds"] - first["perf/step_seconds"])
    return {
        "pairs_per_s": args.pairs / seconds,
        "pairs_per_s_whole_run": args.pairs / metrics["cost/seconds"],
        "wall_seconds": wall,
        "peak_bytes": peak,
        "loss": [row["loss"] for row in rows],
        "mfu": metrics["perf/mfu"],
    }


def run_trl(method: str, args: argparse.Namespace, per_device: int) -> dict[str, object]:
    script = Path(args.scripts) / f"trl_{method}.py"
    if method == "reward" and args.lora_r:
        script = Path(__file__).with_name("trl_reward_lora.py")
    command = [args.trl_python, str(script), "--model", args.model, "--data", args.data]
    command += ["--pairs", str(args.pairs), "--per-device", str(per_device), "--bf16", str(int(args.bf16))]
    command += ["--precompute", "1"] if args.cached and method == "dpo" else []
    # The reward model's script without LoRA reads up to 1,024 tokens.
    takes = method == "dpo" or args.lora_r
    command += ["--max-length", str(args.max_length), "--lora-r", str(args.lora_r)] if takes else []
    started = time.perf_counter()
    out, peak = measured(command)
    wall = time.perf_counter() - started
    result = json.loads(out.strip().splitlines()[-1])
    return {
        "pairs_per_s": result["pairs_per_s"],
        "wall_seconds": wall,
        "peak_bytes": peak,
        "loss": result["loss"],
    }


def compare(method: str, args: argparse.Namespace) -> dict[str, object]:
    rounds = []
    if method == "dpo" and args.cached:
        run_assent(method, args)  # fills the cache
    for number in range(args.repeats):
        row = {"assent": run_assent(method, args)}
        row |= {f"trl_{size}": run_trl(method, args, size) for size in args.per_device}
        rounds.append(row)
        for peer in row.values():
            losses = zip(row["assent"]["loss"], peer["loss"], strict=True)
            peer["loss_differs_by"] = max(abs(a - b) for a, b in losses)
        shown = {name: {k: v for k, v in run.items() if k != "loss"} for name, run in row.items()}
        print(f"{method} round {number + 1}: {json.dumps(shown)}", file=sys.stderr)
        rounds[-1] = shown
    medians = {}
    for size in args.per_device:
        peer = f"trl_{size}"
        medians[f"speed_over_{peer}"] = statistics.median(
            r["assent"]["pairs_per_s"] / r[peer]["pairs_per_s"] for r in rounds
        )
        medians[f"speed_of_the_whole_run_over_{peer}"] = statistics.median(
            r["assent"]["pairs_per_s_whole_run"] / r[peer]["pairs_per_s"] for r in rounds
        )
        medians[f"wall_speed_over_{peer}"] = statistics.median(
            r[peer]["wall_seconds"] / r["assent"]["wall_seconds"] for r in rounds
        )
        medians[f"memory_over_{peer}"] = statistics.median(
            r["assent"]["peak_bytes"] / r[peer]["peak_bytes"] for r in rounds
        )
    return {"medians": medians, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", required=True, help="python of an environment with TRL 1.16")
    parser.add_argument("--scripts", default="../shared/bench", help="folder with trl_dpo.py and trl_reward.py")
    parser.add_argument("--data", required=True, help="comparisons, JSONL")
    parser.add_argument("--model", required=True)
    parser.add_argument("--methods", nargs="+", default=["dpo", "reward"], choices=["dpo", "reward"])
    parser.add_argument("--per-device", nargs="+", type=int, default=[8, 1])
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--max-length", type=int, default=1024, help="of DPO and with LoRA")
    parser.add_argument("--lora-r", type=int, default=0, help="LoRA of this rank on all linear layers; 0: all weights")
    parser.add_argument(
        "--cached", action="store_true", help="the reference's log-probabilities before the clock starts"
    )
    args = parser.parse_args()
    if "reward" in args.methods and not args.lora_r and args.max_length != 1024:
        parser.error(
            "a reward model without LoRA reads up to 1,024 tokens: leave out --max-length, or add --methods dpo"
        )
    with tempfile.TemporaryDirectory() as folder:
        args.pairs_file = Path(folder) / "pairs.jsonl"
        args.cache = Path(folder) / "cache" if args.cached else None
        with open(args.data, encoding="utf-8") as lines:
            args.pairs_file.write_text("".join(line for _, line in zip(range(args.pairs), lines, strict=False)))
        results = {method: compare(method, args) for method in args.methods}
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    print(
        json.dumps({"date": time.strftime("%Y-%m-%d"), "machine": machine, "versions": versions, **results}, indent=1)
    )


if __name__ == "__main__":
    main()
