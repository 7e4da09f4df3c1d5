"""PPO: speed and memory against TRL 1.9, the last release line with a PPO trainer, run side by side.

    python benchmarks/ppo_against_trl.py --trl-python TRL_ENV/bin/python --data hh.jsonl --model MODEL [--lora-r 16]

Both run the same algorithm on the same prompts: float32, a critic of its own, one completion of 64 tokens per prompt at
TRL's temperature of 0.7, four epochs of one mini-batch, rate 1e-5, KL coefficient 0.05, GAE with lambda 0.95, clips of
0.2. Policy, reward model, critic and reference have one size, and the heads are random. With --lora-r both train
adapters on all linear layers; Assent's policy, critic and reference share one trunk then, TRL's critic is a model of
its own. Runs alternate, `--repeats` times, each in a process of its own.

TRL's clock covers only training. Assent's is given twice: for the whole run, with loading, the step-0 gate and the
probes (the ratio that is quoted), and per round after the first. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from against_trl import measured
from sandbox import platform_name

SPEED_TARGET, MEMORY_TARGET = 1.6, 0.5


def run_assent(args: argparse.Namespace, reward: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "assent", "ppo", "--json", "--model", args.model, "--data", str(args.prompts)]
        command += ["--reward", str(reward), "--output-dir", f"{folder}/run", "--batch-size", str(args.batch)]
        command += ["--num-completions", "1"]
        command += ["--total-steps", str(args.episodes // args.batch), "--num-ppo-epochs", str(args.epochs)]
        command += ["--max-length", str(args.max_prompt + args.new_tokens), "--max-new-tokens", str(args.new_tokens)]
        command += ["--temperature", "0.7", "--learning-rate", "1e-5", "--kl-coef", "0.05", "--save-steps", "0"]
        command += ["--missing-eos-penalty", "1.0", "--no-shuffle", "--device", "cpu"]
        command += ["--lora-r", str(args.lora_r), "--trunk", "one"] if args.lora_r else []
        out, peak = measured(command)
        metrics = json.loads(out)["metrics"]
        lines = Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()
    rounds = [row for row in map(json.loads, lines) if "cost/seconds" in row]
    seconds = [row["cost/seconds"] for row in rounds]
    steady = None if len(seconds) < 2 else args.batch * (len(seconds) - 1) / (seconds[-1] - seconds[0])
    return {
        "episodes_per_s": args.episodes / metrics["cost/seconds"],
        "episodes_per_s_after_the_first_round": steady,
        "peak_bytes": peak,
        "completion_length": statistics.mean(row["rollout/completion_length"] for row in rounds),
    }


def run_trl(args: argparse.Namespace) -> dict[str, Any]:
    script = Path(__file__).with_name("trl_ppo_lora.py") if args.lora_r else Path(args.scripts) / "trl_ppo.py"
    command = [args.trl_python, str(script), "--model", args.model, "--data", args.data]
    command += ["--lora-r", str(args.lora_r)] if args.lora_r else []
    command += ["--episodes", str(args.episodes), "--batch", str(args.batch), "--epochs", str(args.epochs)]
    command += ["--max-prompt", str(args.max_prompt), "--new-tokens", str(args.new_tokens)]
    out, peak = measured(command)
    result = json.loads(out.strip().splitlines()[-1])
    return {"episodes_per_s": result["episodes_per_s"], "peak_bytes": peak}


def adapted_reward_model(args: argparse.Namespace, folder: Path) -> Path:
    """An adapter on the policy's base, hardly trained: with one trunk the reward model has to be one."""
    pairs = folder / "pairs.jsonl"
    with open(args.data, encoding="utf-8") as lines:
        pairs.write_text("".join(line for _, line in zip(range(8), lines, strict=False)))
    command = [sys.executable, "-m", "assent", "reward", "--json", "--model", args.model, "--data", str(pairs)]
    command += ["--output-dir", str(folder / "trained"), "--lora-r", str(args.lora_r), "--batch-size", "8"]
    measured([*command, "--max-length", "512", "--save-steps", "0", "--device", "cpu"])
    return folder / "trained" / "model"


def random_reward_model(model: str, target: Path) -> None:
    """Random heads, as TRL's script gives its reward model and critic."""
    from assent.models.loading import load_scorer, load_tokenizer, save_model

    save_model(target, load_scorer(model), load_tokenizer(model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", required=True, help="python of an environment with TRL 1.9")
    parser.add_argument("--scripts", default="../shared/bench", help="folder with trl_ppo.py")
    parser.add_argument("--data", required=True, help="rows with a `prompt` of messages, JSONL")
    parser.add_argument("--model", required=True)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-prompt", type=int, default=192)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lora-r", type=int, default=0, help="LoRA of this rank on all linear layers; 0: all weights")
    args = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        args.prompts = Path(folder) / "prompts.jsonl"
        with open(args.data, encoding="utf-8") as lines:
            rows = [json.loads(line) for _, line in zip(range(args.episodes), lines, strict=False)]
        args.prompts.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows))
        reward = Path(folder) / "reward"
        if args.lora_r:
            reward = adapted_reward_model(args, Path(folder))
        else:
            random_reward_model(args.model, reward)
        for number in range(args.repeats):
            rounds.append({"assent": run_assent(args, reward), "trl": run_trl(args)})
            print(f"round {number + 1}: {json.dumps(rounds[-1])}", file=sys.stderr)
    ratios = {
        name: [row["assent"][name] / row["trl"][name] for row in rounds] for name in ("episodes_per_s", "peak_bytes")
    }
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "assent")},
        "options": {name: str(value) for name, value in vars(args).items() if name != "prompts"},
        "rounds": rounds,
        "speed_over_trl": {"ratios": ratios["episodes_per_s"], "median": statistics.median(ratios["episodes_per_s"])},
        "memory_over_trl": {"ratios": ratios["peak_bytes"], "median": statistics.median(ratios["peak_bytes"])},
        "targets": {"speed": SPEED_TARGET, "memory": MEMORY_TARGET},
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
