"""From the command to the first step or token on a real model, beside what transformers' own loading takes.

    python benchmarks/first_step.py --model MODEL --data hh.jsonl

In turn, --repeats times, each in a process of its own:

    load    imports transformers, and loads tokenizer and model
    dpo     `assent dpo` with LoRA: until its first update begins, the reference's pass for it not counted
    sample  `assent sample` of one token for one prompt: the whole command
    help    `assent --help` and `assent dpo --help`: the whole commands

The first round does not count: what a first start keeps (probes, hashes) is there then. With --cold every round begins
with an empty cache, and all count. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from sandbox import platform_name

LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
import torch
AutoTokenizer.from_pretrained(sys.argv[1])
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
"""
ASSENT = (sys.executable, "-m", "assent")


def seconds_of(command: list[str], cache: str) -> float:
    started = time.perf_counter()
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "ASSENT_CACHE": cache}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def until_the_first_update(args: argparse.Namespace, folder: Path, cache: str) -> float:
    """Seconds until the log has the first update, without what that update and the reference's pass took."""
    command = [*ASSENT, "dpo", "--model", args.model, "--data", str(folder / "pairs.jsonl"), "--lora-r", "16"]
    command += ["--max-length", "512", "--batch-size", "8", "--save-steps", "0", "--output-dir"]
    with tempfile.TemporaryDirectory() as run:
        started, log = time.perf_counter(), Path(f"{run}/run/metrics.jsonl")
        process = subprocess.Popen(
            [*command, f"{run}/run"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "ASSENT_CACHE": cache},
        )
        rows: list[dict[str, float]] = []
        while process.poll() is None and not any("loss" in row for row in rows):
            time.sleep(0.02)
            rows = [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []
        seconds = time.perf_counter() - started
        if process.wait() != 0:
            sys.exit(f"{' '.join(command)} failed: run it by hand")
    within = ("perf/step_seconds", "perf/reference_seconds")
    first = next(index for index, row in enumerate(rows) if "loss" in row)
    return seconds - sum(row.get(name, 0.0) for row in rows[: first + 1] for name in within)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="comparisons, JSONL")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="an empty cache at every start")
    args = parser.parse_args()
    found: dict[str, list[float]] = {"load": [], "dpo": [], "sample": [], "help": [], "dpo_help": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open(args.data, encoding="utf-8") as lines:
            rows = [line for _, line in zip(range(8), lines, strict=False)]
        (folder / "pairs.jsonl").write_text("".join(rows))
        (folder / "prompt.jsonl").write_text(json.dumps({"prompt": json.loads(rows[0])["prompt"]}) + "\n")
        sample = [*ASSENT, "sample", "--model", args.model, "--data", str(folder / "prompt.jsonl")]
        sample += ["--max-new-tokens", "1", "--output-dir"]
        for number in range(args.repeats + (not args.cold)):
            cache = str(folder / f"cache-{number if args.cold else 0}")
            measured = {
                "load": seconds_of([sys.executable, "-c", LOAD, args.model], cache),
                "dpo": until_the_first_update(args, folder, cache),
                "sample": seconds_of([*sample, str(folder / f"sampled-{number}")], cache),
                "help": seconds_of([*ASSENT, "--help"], cache),
                "dpo_help": seconds_of([*ASSENT, "dpo", "--help"], cache),
            }
            print(json.dumps(measured), file=sys.stderr)
            if args.cold or number:
                for what, seconds in measured.items():
                    found[what].append(seconds)
    medians = {what: statistics.median(seconds) for what, seconds in found.items()}
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "assent")},
        "seconds": found,
        "medians": medians,
        "beyond_load": {what: medians[what] - medians["load"] for what in ("dpo", "sample")},
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
