"""How much slower is training on a CPU while other programs keep the cores busy?

    python benchmarks/beside_other_work.py
    python benchmarks/beside_other_work.py --pairs 64 --repeats 1

DPO on comparisons of the sandbox, in a process of its own each time: with nothing beside it, and beside as many busy
loops as there are cores. Once as Assent sets OpenMP's policy (threads that wait give their core away), once as it is
without that (OMP_WAIT_POLICY=active: they spin). Start it on a quiet machine. Prints one JSON document: seconds of each
run (from its first batch to its last, the reference's reading included), and for each policy the ratio of the medians.
The target is 2.5 as Assent sets it: two programs on the same cores take twice as long at best.
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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sandbox import machine

TARGET = 2.5
POLICIES: dict[str, dict[str, str]] = {"as set": {}, "active": {"OMP_WAIT_POLICY": "active"}}
SET_BY_USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
INPUTS = """
name: inputs
stages:
  - {name: world, command: sandbox-world, options: {num_demonstrations: 1, num_prompts: 1, num_test_prompts: 1}}
  - {name: labels, command: sandbox-labels, options: {model: "${world.model}", num_pairs: %d, num_test_pairs: 1}}
"""
OPTIONS = ["--max-length", "256", "--beta", "0.3", "--learning-rate", "2e-4", "--batch-size", "32", "--save-steps", "0"]


def prepared(folder: Path, pairs: int) -> list[str]:
    """Makes model and comparisons. Gives the options that name them."""
    file = folder / "inputs.yaml"
    file.write_text(INPUTS % pairs)
    command = [sys.executable, "-m", "assent", "run", str(file), "--output-dir", str(folder / "inputs"), "--json"]
    stages = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)["stages"]
    return ["--model", stages["world"]["model"], "--data", stages["labels"]["train"]]


@contextmanager
def busy(number: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def seconds(inputs: list[str], policy: dict[str, str], beside: int) -> float:
    kept = {name: value for name, value in os.environ.items() if name not in SET_BY_USERS}
    with tempfile.TemporaryDirectory() as folder, busy(beside):
        command = [sys.executable, "-m", "assent", "dpo", *inputs, *OPTIONS, "--device", "cpu", "--json"]
        command += ["--output-dir", f"{folder}/run", "--reference-cache", f"{folder}/reference"]
        out = subprocess.run(command, env={**kept, **policy}, stdout=subprocess.PIPE, check=True).stdout
    return float(json.loads(out)["metrics"]["cost/seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="busy loops beside it")
    args = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {policy: {"quiet": [], "beside": []} for policy in POLICIES}
    with tempfile.TemporaryDirectory() as folder:
        inputs = prepared(Path(folder), args.pairs)
        for _ in range(args.repeats):
            for policy, environment in POLICIES.items():
                found[policy]["quiet"].append(seconds(inputs, environment, 0))
                found[policy]["beside"].append(seconds(inputs, environment, args.busy))
    middle = {policy: {kind: statistics.median(each) for kind, each in of.items()} for policy, of in found.items()}
    ratios = {policy: of["beside"] / of["quiet"] for policy, of in middle.items()}
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    document: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions}
    document |= {"pairs": args.pairs, "busy_loops": args.busy, "seconds": found, "ratio": ratios, "target": TARGET}
    document["passive_beside_over_active_beside"] = middle["as set"]["beside"] / middle["active"]["beside"]
    document["within_target"] = ratios["as set"] <= TARGET
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
