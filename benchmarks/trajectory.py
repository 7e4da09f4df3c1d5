"""The same training, step by step, in Assent and in TRL: losses and gradient norms of DPO and of the reward model.

    python benchmarks/trajectory.py --trl-python TRL_ENV/bin/python --data hh.jsonl --model MODEL

Both train on the first 64 comparisons in the file's order, in fp32, 8 per update, with a constant learning rate: DPO at
1e-5 and at 3e-4, the reward model at 1e-4 from identical weights. TRL also trains on what the template writes after
EOS; `--keep-template-tail` makes Assent do the same. Prints one JSON document with every step and the largest
differences.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RUNS = (("dpo", 1e-5), ("dpo", 3e-4), ("reward", 1e-4))


def output_of(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def trl_steps(method: str, rate: float, args: argparse.Namespace, start: Path) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step. A reward model's starting weights are written to `start`."""
    command = [
        args.trl_python,
        str(Path(args.scripts) / f"trl_{method}.py"),
        "--model",
        args.model,
        "--data",
        args.data,
    ]
    command += ["--pairs", str(args.pairs), "--per-device", "1", "--lr", str(rate)]
    command += ["--save-start", str(start)] if method == "reward" else []
    result = json.loads(output_of(command).strip().splitlines()[-1])
    return list(zip(result["loss"], result["grad_norm"], strict=True))


def assent_steps(method: str, rate: float, args: argparse.Namespace, start: Path) -> list[tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        with open(args.data, encoding="utf-8") as lines:
            pairs.write_text("".join(line for _, line in zip(range(args.pairs), lines, strict=False)), encoding="utf-8")
        model = str(start) if method == "reward" else args.model
        command = [sys.executable, "-m", "assent", method, "--json", "--model", model, "--data", str(pairs)]
        command += ["--output-dir", f"{folder}/run", "--learning-rate", str(rate), "--lr-scheduler-type", "constant"]
        command += ["--no-shuffle", "--keep-template-tail", "--save-steps", "0"]
        command += ["--reference-cache", f"{folder}/cache"] if method == "dpo" else []
        output_of(command)
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["grad_norm"]) for row in rows if "loss" in row]


def compare(method: str, rate: float, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        theirs = trl_steps(method, rate, args, Path(folder) / "start")
        ours = assent_steps(method, rate, args, Path(folder) / "start")
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "method": method,
        "learning_rate": rate,
        "loss_moves_by": max(loss for loss, _ in theirs) - min(loss for loss, _ in theirs),
        "largest_loss_difference": max(abs(a[0] - b[0]) for a, b in pairs),
        "largest_relative_grad_norm_difference": max(abs(a[1] - b[1]) / b[1] for a, b in pairs),
        "assent": ours,
        "trl": theirs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", required=True, help="python of an environment with TRL 1.16")
    parser.add_argument("--scripts", default="../shared/bench", help="folder with trl_dpo.py and trl_reward.py")
    parser.add_argument("--data", required=True, help="comparisons, JSONL")
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", type=int, default=64)
    args = parser.parse_args()
    runs = [compare(method, rate, args) for method, rate in RUNS]
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    print(json.dumps({"date": time.strftime("%Y-%m-%d"), "versions": versions, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
