"""A whole PPO step of a model with random weights: how long do sampling, scoring, checking and updating take?

    python benchmarks/ppo_step.py --shape 0.5b --tokenizer MODEL --data hh.jsonl --device cuda --bf16

Runs `assent ppo` for `--rounds` rounds with a policy, a critic, a reference and a reward model of the shape, with
random heads. Reads its metrics: medians over the rounds after the first, which also has the step-0 gate. A random
policy hardly ever ends a completion, so each round draws about as many tokens. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from against_trl import measured
from make_model import SHAPES, make_model
from ppo_against_trl import random_reward_model
from sandbox import machine

FIGURES = ("rollout/tokens_per_second", "rollout/completion_length", "perf/mfu", "critic/perf/mfu")


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model, reward, prompts = folder / "model", folder / "reward", folder / "prompts.jsonl"
    make_model(args.shape, args.tokenizer, model)
    random_reward_model(str(model), reward)
    with open(args.data, encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(args.batch_size * args.rounds), lines, strict=False)]
    prompts.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows))
    command = [sys.executable, "-m", "assent", "ppo", "--json", "--model", str(model), "--data", str(prompts)]
    command += ["--reward", str(reward), "--output-dir", str(folder / "run"), "--batch-size", str(args.batch_size)]
    command += ["--num-completions", "1"]
    command += ["--total-steps", str(args.rounds), "--num-ppo-epochs", str(args.epochs), "--save-steps", "0"]
    command += ["--max-length", str(args.max_prompt + args.new_tokens), "--max-new-tokens", str(args.new_tokens)]
    command += ["--learning-rate", "1e-6", "--device", args.device, "--no-shuffle"]
    command += ["--mixed-precision", "bf16"] if args.bf16 else []
    metrics = json.loads(measured(command)[0])["metrics"]
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    found = of_rounds([row for row in map(json.loads, lines) if "cost/seconds" in row])
    return {**found, **{name: metrics[name] for name in ("cost/peak_memory_bytes", "cost/models_resident")}}


def of_rounds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds after the first."""
    seconds = [later["cost/seconds"] - row["cost/seconds"] for row, later in pairwise(rows)]
    phases = sorted(name for name in rows[1] if name.startswith("time/"))
    shares = {name: [row[name] for row in rows[1:]] for name in phases}
    return {
        "seconds": statistics.median(seconds),
        "shares": {name.removeprefix("time/"): statistics.median(values) for name, values in shares.items()},
        "seconds_by_phase": {
            name.removeprefix("time/"): statistics.median(s * x for s, x in zip(seconds, values, strict=True))
            for name, values in shares.items()
        },
        **{name: statistics.median(row[name] for row in rows[1:]) for name in FIGURES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True, choices=list(SHAPES))
    parser.add_argument("--tokenizer", required=True, help="model folder whose tokenizer and template are used")
    parser.add_argument("--data", required=True, help="rows with a `prompt` of messages, JSONL")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="prompts of a round, one completion each")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--max-prompt", type=int, default=384)
    parser.add_argument("--new-tokens", type=int, default=128)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds must be at least 2: the first is not counted")
    with tempfile.TemporaryDirectory() as folder:
        found = run(args, Path(folder))
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    head = {"date": time.strftime("%Y-%m-%d"), "machine": machine(args.device), "versions": versions}
    print(json.dumps({**head, "options": vars(args), "after_the_first_round": found}, indent=1))


if __name__ == "__main__":
    main()
