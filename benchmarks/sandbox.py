"""The main job over several seeds: do DPO, PPO and best-of-16 beat the SFT model by gold, and at what KL?

    python benchmarks/sandbox.py --output-dir out/sandbox --world-seed 0
    python benchmarks/sandbox.py --output-dir out/sandbox-unseen --world-seed 1
    python benchmarks/sandbox.py --output-dir out/reversed --pipeline benchmarks/label_control.yaml \
        --set labels.flip=1.0 --methods dpo --gold-samples 0
    python benchmarks/sandbox.py --output-dir out/shuffled --pipeline benchmarks/label_control.yaml \
        --set labels.flip=0.5 --methods dpo --gold-samples 0

Runs the shipped demo pipeline with seeds 0 to 4 (fixed beforehand), `--jobs` at a time, and prints one JSON document.
The intervals are two-way: over seeds and over prompts. A tie counts half. Best-of-n by gold itself, from
`--gold-samples` completions of the SFT model for each prompt, shows what is possible at the same KL. That KL is
log n − (n−1)/n, the upper bound of best-of-n's, so the comparison is hard on the trained policies. A finished seed is
not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2, 3, 4)


def run_seed(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    folder = Path(args.output_dir) / f"seed-{seed}"
    pipeline = args.pipeline or str(files("assent.commands") / "demo.yaml")
    command = [sys.executable, "-m", "assent", "run", pipeline, "--output-dir", str(folder), "--seed", str(seed)]
    sets = [f"world.world_seed={args.world_seed}", f"labels.world_seed={args.world_seed}"]
    sets += args.set
    command += [part for item in sets for part in ("--set", item)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"seed {seed} failed:\n{done.stderr[-3000:]}")
    print(f"seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())


def gold_curve(folder: Path, seed: int, args: argparse.Namespace) -> dict[int, float]:
    """Mean gold of best-of-n by gold, for n = 1, 2, 4 … from one set of samples of the seed's SFT model."""
    from assent.data.loading import load_groups
    from assent.inference.best_of_n import expected_best_of_n
    from assent.models.loading import load_policy, load_tokenizer
    from assent.models.templates import resolve_template
    from assent.models.tokenizing import tokenize_groups
    from assent.rollouts.sampler import SamplingParams, SeedKey
    from assent.rollouts.torch_sampler import TorchSampler
    from assent.sandbox.gold import gold

    model_folder = str(folder / "sft" / "model")
    groups = list(load_groups(str(folder / "world" / "test_prompts.jsonl")))[: args.gold_prompts]
    tokenizer = load_tokenizer(model_folder)
    template = resolve_template(tokenizer)
    tokens = tokenize_groups(groups, tokenizer=tokenizer, template=template, max_length=256, max_new_tokens=40)
    sampler = TorchSampler(load_policy(model_folder, tokenizer=tokenizer), tokenizer, eos_ids=template.eos_ids)
    rollouts = sampler.sample(
        [group.prompt_ids for group in tokens.groups],
        num_completions=args.gold_samples,
        params=SamplingParams(max_new_tokens=40),
        seed=SeedKey(seed, "gold curve", 0),
    )
    scores: list[list[float]] = [[] for _ in groups]
    for rollout in rollouts:
        group = groups[tokens.kept[rollout.prompt_index]]
        scores[rollout.prompt_index].append(gold(group.columns, rollout.text).total)
    sizes = [2**k for k in range(int(math.log2(args.gold_samples)) + 1)]
    curves = [expected_best_of_n(row) for row in scores]
    return {n: float(sum(curve[n - 1] for curve in curves) / len(curves)) for n in sizes}


def attainable(curve: dict[int, float], kl: float) -> float | None:
    """Gold of best-of-n by gold at KL `kl`: linear in KL between the measured sizes, None beyond the largest."""
    points = [(math.log(n) - (n - 1) / n, value) for n, value in sorted(curve.items())]
    for (low, before), (high, after) in pairwise(points):
        if low <= kl <= high:
            return before + (after - before) * (kl - low) / (high - low)
    return None


def summary(
    evaluations: list[dict[str, Any]], curves: list[dict[int, float]], args: argparse.Namespace
) -> dict[str, Any]:
    from assent.evaluation.win_rate import win_rate

    result: dict[str, Any] = {}
    for method in args.methods:
        result[method] = {}
        for decoding in ("sampled", "greedy"):
            rows, base, prompts, seeds = [], [], [], []
            for seed, evaluation in zip(SEEDS, evaluations, strict=False):
                policies = {row["name"]: row for row in evaluation["policies"]}
                if policies[method][decoding] is None:
                    continue
                scores = policies[method][decoding]["scores"]
                rows += scores
                base += policies[evaluation["baseline"]][decoding]["scores"]
                prompts += [f"{seed}/{i}" for i in range(len(scores))]
                seeds += [seed] * len(scores)
            if not rows:
                continue
            estimate = win_rate(rows, base, clusters=prompts, second_clusters=seeds)
            gold = [sum(map(sum, part)) / sum(map(len, part)) for part in (rows, base)]
            result[method][decoding] = {"win_rate": estimate.as_dict(), "gold": gold[0], "gold_sft": gold[1]}
        result[method]["per_seed"] = [_seed_row(e, c, method) for e, c in zip(evaluations, curves, strict=True)]
    judged = [e["reward_model"] for e in evaluations if e.get("reward_model")]
    reward_model = {
        "accuracy": [quality["accuracy"]["value"] for quality in judged],
        "noise_ceiling": [quality["noise_ceiling"] for quality in judged],
    }
    return result | {"reward_model": reward_model, "gold_best_of_n": curves}


def _seed_row(evaluation: dict[str, Any], curve: dict[int, float], method: str) -> dict[str, Any]:
    policies = {row["name"]: row for row in evaluation["policies"]}
    row, base = policies[method], policies[evaluation["baseline"]]
    gain = row["sampled"]["gold"]["value"] - base["sampled"]["gold"]["value"]
    best = attainable(curve, row["kl"]["value"]) if curve else None
    could = None if best is None else best - base["sampled"]["gold"]["value"]
    rates = {d: row[d] and row[d]["win_rate"]["value"] for d in ("sampled", "greedy")}
    return {
        "win_rate": rates,
        "kl_nats": row["kl"]["value"],
        "kl_kind": row["kl"]["kind"],
        "gold_gain": gain,
        "share_of_best_of_n_by_gold": None if could is None else gain / could,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="STAGE.OPTION=VALUE, handed to `assent run`")
    parser.add_argument("--methods", nargs="+", default=["dpo", "ppo", "best-of-16"])
    parser.add_argument("--pipeline", help="another pipeline file than the shipped demo")
    parser.add_argument("--jobs", type=int, default=2, help="seeds run at the same time")
    parser.add_argument("--gold-samples", type=int, default=256, help="0: leave the gold best-of-n out")
    parser.add_argument("--gold-prompts", type=int, default=100)
    args = parser.parse_args()
    with ThreadPoolExecutor(args.jobs) as pool:
        evaluations = list(pool.map(lambda seed: run_seed(seed, args), SEEDS))
    curves = [gold_curve(Path(args.output_dir) / f"seed-{s}", s, args) if args.gold_samples else {} for s in SEEDS]
    machine = {"processor": platform_name(), "cores": os.cpu_count()}
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    document = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "versions": versions, "options": vars(args)}
    print(json.dumps(document | summary(evaluations, curves, args), indent=1))


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine that a figure was measured on."""
    found: dict[str, Any] = {"processor": platform_name(), "cores": os.cpu_count()}
    if device.startswith("cuda"):
        import torch

        found["device"] = torch.cuda.get_device_name(device)
    return found


def platform_name() -> str:
    """The processor's name, if the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
