"""Peak memory of PPO with separate models, with a shared trunk and with one trunk, against LoRA SFT of the same model.

    python benchmarks/make_model.py --shape 135m --tokenizer MODEL --output-dir OUT
    python benchmarks/memory.py --model OUT --data comparisons.jsonl

Each run is a process of its own and `--steps` steps long. The figure is its peak resident size. SFT and PPO have the
same batch: as many completions, of at most as many tokens, to the same prompts. The reward model is an adapter on that
base, trained for one step; where the models are separate, it is merged. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from against_trl import measured
from sandbox import platform_name

TARGET = 1.3
"""Peak of PPO on one trunk over that of LoRA SFT."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="comparisons, JSONL: prompt, chosen, rejected")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--runs", nargs="+", help="only these")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peaks = run_all(args, Path(folder))
    sft = peaks.get("sft, LoRA")
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "assent")},
        "options": vars(args),
        "peak_bytes": peaks,
        "over_lora_sft": {name: peak / sft for name, peak in peaks.items()} if sft else None,
        "target": TARGET,
    }
    print(json.dumps(document, indent=1))


def run_all(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    files = data_files(args, folder)
    common = ["--model", args.model, "--max-length", str(args.max_length), "--save-steps", "0"]
    lora = ["--lora-r", str(args.lora_r)]
    reward = folder / "reward"
    run("reward", [*common, *lora, "--data", files["comparisons"], "--batch-size", "2", "--max-steps", "1"], reward)
    steps = ["--batch-size", str(args.batch_size), "--learning-rate", "1e-4"]
    ppo = [*common, *steps, "--data", files["prompts"], "--reward", str(reward / "model"), "--num-ppo-epochs", "1"]
    ppo += ["--num-completions", "1", "--total-steps", str(args.steps), "--max-new-tokens", str(args.max_new_tokens)]
    sft = [*common, *steps, "--data", files["demonstrations"], "--max-steps", str(args.steps)]
    runs = {
        "sft, LoRA": ("sft", [*sft, *lora]),
        "ppo, one trunk": ("ppo", [*ppo, *lora, "--trunk", "one"]),
        "ppo, shared trunk, LoRA": ("ppo", [*ppo, *lora, "--trunk", "shared"]),
        "ppo, separate, LoRA": ("ppo", [*ppo, *lora]),
        "ppo, separate, all weights": ("ppo", ppo),
    }
    chosen = {name: runs[name] for name in args.runs or runs}
    return {name: run(command, more, folder / name) for name, (command, more) in chosen.items()}


def run(command: str, more: list[str], output_dir: Path) -> float:
    """Peak resident bytes of `assent COMMAND`."""
    _, peak = measured([sys.executable, "-m", "assent", command, "--json", *more, "--output-dir", str(output_dir)])
    print(f"{output_dir.name}: {peak / 2**30:.2f} GiB", file=sys.stderr)
    return peak


def data_files(args: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Writes as many rows as the steps read. A prompt is its last message; the chosen answers are demonstrations."""
    with open(args.data, encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(args.batch_size * args.steps), lines, strict=False)]
    kinds = {
        "comparisons": [{"prompt": r["prompt"][-1:], "chosen": r["chosen"], "rejected": r["rejected"]} for r in rows],
        "demonstrations": [{"prompt": r["prompt"][-1:], "completion": r["chosen"]} for r in rows],
        "prompts": [{"prompt": r["prompt"][-1:]} for r in rows],
    }
    for name, kind in kinds.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kind), encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in kinds}


if __name__ == "__main__":
    main()
