"""RLHF on the sandbox over five seeds: PPO, GRPO, RLOO and A2C from one SFT model and one reward model per seed.

    python benchmarks/rlhf.py --output-dir out/rlhf
    python benchmarks/rlhf.py --output-dir out/rlhf --control ppo grpo rloo a2c --ablation

Runs rlhf.yaml with seeds 0 to 4 (fixed beforehand), `--jobs` at a time. Prints one JSON document: each method's win
rate against the SFT model by gold, KL and wall-clock, with DPO and best-of-16 beside them. `--control` repeats the runs
with the reward model's sign reversed. `--ablation` runs PPO at strengths that strain it, with clip on and off × KL on
and off, and what its logs say about stability. Intervals are two-way, over seeds and prompts. What is finished is not
run again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from sandbox import SEEDS, platform_name, run_seed, summary

PIPELINE = Path(__file__).with_name("rlhf.yaml")
METHODS = ["ppo", "grpo", "rloo", "a2c", "dpo", "best-of-16"]
TARGET_WIN_RATE, TARGET_KL = 0.65, 10.0
STRAIN: dict[str, Any] = {"learning_rate": 1.0e-3, "lr_scheduler_type": "constant", "total_steps": 16, "batch_size": 64}
STRAIN |= {"num_completions": 1, "num_ppo_epochs": 4, "num_mini_batches": 4}
NO_CLIP, NO_KL = {"cliprange": 0.0, "cliprange_value": 0.0}, {"kl_coef": 0.0}
ABLATION = {
    "clip-and-kl": STRAIN,
    "clip-alone": STRAIN | NO_KL,
    "kl-alone": STRAIN | NO_CLIP,
    "neither": STRAIN | NO_CLIP | NO_KL,
}
COLLAPSE = 0.5
"""A round whose mean score is lower by so many standard deviations of the first round's scores than an earlier one."""


def turned_round(reward_model: str, target: Path) -> str:
    """Makes a copy of the reward model whose scores have the opposite sign."""
    from assent.models.loading import load_scorer, load_tokenizer, save_model

    if not target.exists():
        model: Any = load_scorer(reward_model)
        model.score.weight.data.neg_()
        model.config.assent_score_bias = -getattr(model.config, "assent_score_bias", 0.0)
        save_model(target, model, load_tokenizer(reward_model))
    return str(target)


def assent(command: str, options: Mapping[str, Any], file: Path, jobs: int) -> None:
    file.write_text(yaml.safe_dump(dict(options)))
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    argv = [sys.executable, "-m", "assent", command, "--json", "--config", str(file)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{file.stem} failed:\n{done.stderr[-3000:]}")


def stage_options(folder: Path) -> dict[str, dict[str, Any]]:
    """Options of each pipeline stage, with references replaced by the finished pipeline's outputs."""
    outputs = {s["name"]: s["result"] for s in json.loads((folder / "pipeline.json").read_text())["stages"]}
    text = re.sub(
        r"\$\{([^{}.]*)\.([^{}]*)\}", lambda found: str(outputs[found[1]][found[2]]), PIPELINE.read_text("utf-8")
    )
    return {stage["name"]: stage["options"] for stage in yaml.safe_load(text)["stages"]}


def run_variants(seed: int, part: str, args: argparse.Namespace) -> dict[str, Any]:
    """Runs the control or the ablation of one seed, and evaluates its runs together."""
    folder = Path(args.output_dir) / f"seed-{seed}"
    options = stage_options(folder)
    variants = {name: ("ppo", change) for name, change in ABLATION.items()}
    if part == "control":
        reverse = {"reward": turned_round(options["ppo"]["reward"], folder / "reward-turned-round")}
        variants = {f"{name}-turned-round": (name, reverse) for name in args.control}
    home = folder / part
    home.mkdir(exist_ok=True)
    for name, (command, change) in variants.items():
        run = options[command] | change | {"output_dir": str(home / name), "seed": seed}
        if run["kl_coef"] == 0.0:
            run.pop("kl_penalty", None)  # it would have no effect
        assent(command, run, home / f"{name}.yaml", args.jobs)
        print(f"seed {seed}: {name}", file=sys.stderr)
    kept = ("data", "judge", "baseline", "max_length", "max_new_tokens")
    policies = {"sft": options["ppo"]["model"]} | {name: str(home / name / "model") for name in variants}
    ledgers = {name: str(home / name) for name in variants}
    evaluation = {name: options["evaluation"][name] for name in kept}
    evaluation |= {"policies": policies, "ledgers": ledgers, "seed": seed, "output_dir": str(home / "evaluation")}
    assent("eval", evaluation, home / "evaluation.yaml", args.jobs)
    return json.loads((home / "evaluation" / "evaluation.json").read_text())


def stability(run: Path) -> dict[str, float]:
    """What a run's log says about its stability: where it ended, the hardest round, whether a round threw it back."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "objective/scores" in row]
    scores = [row["objective/scores"] for row in rows]
    falls = [max(scores[:i]) - scores[i] for i in range(1, len(scores))]
    spread = rows[0]["objective/scores_std"]
    return {
        "score_last": sum(scores[-5:]) / len(scores[-5:]),
        "score_best_round": max(scores),
        "largest_fall_in_std": max(falls) / spread,
        "rounds_thrown_back": float(sum(fall > COLLAPSE * spread for fall in falls)),
        "kl_last": rows[-1]["objective/kl"],
        "kl_highest": max(row["objective/kl"] for row in rows),
        "entropy_last": rows[-1]["objective/entropy"],
        "approxkl_k3_highest": max(row["policy/approxkl_k3"] for row in rows),
        "clipfrac_mean": sum(row["policy/clipfrac_avg"] for row in rows) / len(rows),
        "grad_norm_highest": max(row["grad_norm"] for row in rows),
    }


def of_evaluations(evaluations: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """sandbox.py's summary, with each method's seconds by seed and whether it reached the target."""
    result = summary(list(evaluations), [{} for _ in evaluations], argparse.Namespace(methods=methods))
    for method in methods:
        rows = [{row["name"]: row for row in evaluation["policies"]}[method] for evaluation in evaluations]
        kl = max(row["kl_nats"] for row in result[method]["per_seed"])
        low = result[method]["sampled"]["win_rate"]["low"]
        result[method]["seconds"] = [row["ledger"].get("cost/seconds") for row in rows]
        result[method]["reached"] = low >= TARGET_WIN_RATE and kl <= TARGET_KL
    return {name: part for name, part in result.items() if name != "gold_best_of_n"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--set", action="append", default=[], help="STAGE.OPTION=VALUE, handed to `assent run`")
    parser.add_argument("--control", nargs="*", default=["ppo"], choices=["ppo", "grpo", "rloo", "a2c"])
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, help="seeds run at the same time")
    args = parser.parse_args()
    args.pipeline = str(PIPELINE)
    parts = ["control"] * bool(args.control) + ["ablation"] * args.ablation
    with ThreadPoolExecutor(args.jobs) as pool:
        evaluations = list(pool.map(lambda seed: run_seed(seed, args), args.seeds))
        found = {part: list(pool.map(lambda s, part=part: run_variants(s, part, args), args.seeds)) for part in parts}
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "assent")},
        "options": vars(args),
        "methods": of_evaluations(evaluations, METHODS),
    }
    if args.control:
        document["control"] = of_evaluations(found["control"], [f"{name}-turned-round" for name in args.control])
    if args.ablation:
        document["ablation"] = of_evaluations(found["ablation"], list(ABLATION))
        homes = [Path(args.output_dir) / f"seed-{seed}" / "ablation" for seed in args.seeds]
        for name in ABLATION:
            document["ablation"][name]["log"] = [stability(home / name) for home in homes]
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
