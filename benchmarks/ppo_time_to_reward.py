"""PPO: how much sooner than TRL 1.9 does Assent reach the same held-out reward on the sandbox?

    python benchmarks/ppo_time_to_reward.py --trl-python TRL_ENV/bin/python --stages out/rlhf/seed-0

`--stages` is a folder that rlhf.py's pipeline has filled as far as the reward model. Both sides start from its SFT
policy, which is also the reference, and from its reward model, which is also the critic. They read the same prompts by
the same ids. They have the `ppo` strengths of rlhf.yaml: learning rate, kl_coef, completions of a round, rounds,
completion length, missing_eos_penalty, temperature 1, float32. Everything else is each side's default: both decay the
rate to zero; Assent clips gradients, TRL does not.

Settings of Assent:

    demo     rlhf.yaml's as it is: four completions for each prompt of a round, which is read once for all four
    single   as many completions from four times the prompts, one of each
    grpo     another algorithm, as in rlhf.yaml

TRL's PPO gives one completion to a prompt. Its settings:

    same     rlhf.yaml's passes over a round (2 epochs of 2 updates)
    own      TRL's own (4 epochs of 1)

Each setting of Assent is compared with the better one of TRL.

The clock covers only the rounds, not loading, checkpoints and evaluation. Outside of it, every `--save-steps`-th policy
answers the test prompts with the same random numbers each time, and the reward model scores the answers. The target is
fixed here: 80% of the gain over the start of Assent's last policy, or of the better TRL setting's last, whichever gain
is less. A side reaches it at its first checkpoint with that reward. The ratio is TRL's seconds over Assent's, for the
TRL setting that reaches the target first. Prints one JSON document with all curves. Before that, it checks that TRL
renders the prompts to the same ids, scores the same completions alike, and has Assent's mean score in its first round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from against_trl import measured
from sandbox import platform_name

SHARE, TARGET = 0.8, 4.0
SAME_SCORE, SAME_MEAN = 1e-4, 4.0
"""Largest difference of a completion's scores; of the first rounds' means, in standard errors."""
ASSENT_SETTINGS: dict[str, tuple[str, dict[str, int]]] = {
    "demo": ("ppo", {}),
    "single": ("ppo", {"num_completions": 1, "batch_size": 128}),
    "grpo": ("grpo", {}),
}
"""Command, and what is other than in rlhf.yaml; in all of them a round has as many completions."""
TRL_SETTINGS: dict[str, dict[str, int]] = {"same": {}, "own": {"num_ppo_epochs": 4, "num_mini_batches": 1}}


class HeldOut:
    """Samples answers to the test prompts and scores them with the reward model."""

    def __init__(self, model: Path, reward: Path, data: Path, *, options: Mapping[str, Any], samples: int) -> None:
        from assent.data.loading import load_groups
        from assent.models.loading import load_tokenizer
        from assent.models.templates import resolve_template
        from assent.models.tokenizing import tokenize_groups
        from assent.rewards.reward_model import RewardModel

        self.model, self.options, self.samples = model, options, samples
        self.tokenizer = load_tokenizer(str(model))
        self.template = resolve_template(self.tokenizer)
        self.lengths = {name: options[name] for name in ("max_length", "max_new_tokens")}
        self.tokenize = lambda groups: tokenize_groups(
            groups, tokenizer=self.tokenizer, template=self.template, **self.lengths
        )
        self.groups = list(load_groups(str(data)))
        self.ids = [group.prompt_ids for group in self.tokenize(self.groups).groups]
        self.reward = RewardModel(str(reward), policy_tokenizer=self.tokenizer)

    def rollouts(self, policy: Path | None = None, weights: Path | None = None) -> list[Any]:
        from assent.engine.weights import load_weights
        from assent.models.loading import load_policy
        from assent.models.module import AlignmentModel
        from assent.rollouts.sampler import SamplingParams, SeedKey
        from assent.rollouts.torch_sampler import TorchSampler

        module = AlignmentModel(load_policy(str(policy or self.model), tokenizer=self.tokenizer), kind="policy").eval()
        if weights is not None:
            load_weights(weights, module)
        sampler = TorchSampler(module.hf, self.tokenizer, eos_ids=self.template.eos_ids)
        params = SamplingParams(max_new_tokens=self.lengths["max_new_tokens"])
        return sampler.sample(self.ids, num_completions=self.samples, params=params, seed=SeedKey(0, "held out", 0))

    def scores(self, rollouts: Sequence[Any]) -> list[float]:
        from assent.rewards.base import score_rollouts

        return list(score_rollouts(self.reward, rollouts, self.groups))

    def point(self, rollouts: Sequence[Any], *, step: int, seconds: float) -> dict[str, Any]:
        from assent.statistics.intervals import mean_interval

        found = mean_interval(self.scores(rollouts), clusters=[rollout.prompt_index for rollout in rollouts])
        ended = statistics.mean(rollout.finish_reason == "stop" for rollout in rollouts)
        told = {"reward": found.value, "low": found.low, "high": found.high, "ended": ended}
        return {"step": step, "seconds": seconds, **told}


def run_assent(name: str, seed: int, out: Path, held_out: HeldOut, args: argparse.Namespace) -> dict[str, Any]:
    command, change = ASSENT_SETTINGS[name]
    options = {**stage_options(command, args), **change, "seed": seed, "output_dir": str(out), "device": "cpu"}
    completions = args.completions or options["batch_size"] * options.get("num_completions", 1)
    options["batch_size"] = completions // options.get("num_completions", 1)
    options |= {"save_steps": args.save_steps, "save_total_limit": 1000}
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(options))
    started = time.perf_counter()
    _, peak = measured([sys.executable, "-m", "assent", command, "--json", "--config", str(file)])
    whole = time.perf_counter() - started
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rounds = [row for row in rows if "objective/scores" in row]
    seconds, points = [0.0], []
    for row in rounds:  # a round lasted as long as its sampling did, over the share that sampling has of it
        sampled = row["rollout/completion_length"] * completions / row["rollout/tokens_per_second"]
        seconds.append(seconds[-1] + sampled / row["time/generate"])
    for step in range(1, len(seconds)):
        if weights := saved(out, step, last=len(rounds)):
            points.append(held_out.point(held_out.rollouts(**weights), step=step, seconds=seconds[step]))
    first = rounds[0]["objective/scores"] - options["missing_eos_penalty"] * (1 - rounds[0]["rollout/eos_rate"])
    error = rounds[0]["objective/scores_std"] / math.sqrt(completions)
    told = {"command_seconds": whole, "peak_bytes": peak, "first_round": first, "first_round_error": error}
    return {"points": points, **told}


def saved(out: Path, step: int, *, last: int) -> dict[str, Path] | None:
    """The policy after `step` rounds. After the last round, it is the result."""
    if step == last:
        return {"policy": out / "model"}
    checkpoint = out / "checkpoints" / f"step-{step}" / "model"
    return {"weights": checkpoint} if checkpoint.exists() else None


def run_trl(name: str, seed: int, out: Path, held_out: HeldOut, args: argparse.Namespace) -> dict[str, Any]:
    from assent.data.loading import load_groups

    groups = list(load_groups(held_out.options["data"]))
    tokens = held_out.tokenize(groups)
    messages = [[{"role": m.role, "content": m.content} for m in groups[i].prompt] for i in tokens.kept]
    probes = held_out.rollouts()[: args.probes]
    work = {
        "model": held_out.options["model"],
        "reward": held_out.options["reward"],
        "prompts": [[m, list(group.prompt_ids)] for m, group in zip(messages, tokens.groups, strict=True)],
        "probes": [[list(held_out.ids[rollout.prompt_index]), list(rollout.ids)] for rollout in probes],
        "options": {**held_out.options, **TRL_SETTINGS[name]},
        "seed": seed,
        "save_steps": args.save_steps,
    }
    out.mkdir(parents=True)
    (out / "work.json").write_text(json.dumps(work))
    script = Path(__file__).with_name("trl_ppo_curve.py")
    started = time.perf_counter()
    text, peak = measured([args.trl_python, str(script), str(out / "work.json"), str(out)])
    whole = time.perf_counter() - started
    told = json.loads(text.strip().splitlines()[-1])
    apart = max(abs(a - b) for a, b in zip(told["probe_scores"], held_out.scores(probes), strict=True))
    if apart > SAME_SCORE:
        sys.exit(f"TRL scores the same completions otherwise: {apart:.2g} apart")
    points = [
        held_out.point(held_out.rollouts(policy=Path(point["policy"])), step=point["step"], seconds=point["seconds"])
        for point in told["points"]
    ]
    told = {"command_seconds": whole, "peak_bytes": peak, "first_round": told["round_scores"][0]}
    return {"points": points, "probes_apart": apart, **told}


def reached(points: Sequence[Mapping[str, float]], target: float) -> float | None:
    return next((point["seconds"] for point in points if point["reward"] >= target), None)


def compare(start: float, assent: Mapping[str, Any], trl: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds to the target on both sides, and their ratio; None if there is no gain that both have."""
    gain = assent["points"][-1]["reward"] - start
    gains = {name: run["points"][-1]["reward"] - start for name, run in trl.items()}
    target = start + SHARE * min(gain, max(gains.values()))
    ours = reached(assent["points"], target)
    theirs = {name: reached(run["points"], target) for name, run in trl.items()}
    times = [seconds for seconds in theirs.values() if seconds is not None]
    ratio = min(times) / ours if times and ours and target > start else None
    told = {"gain": gain, "gains_trl": gains, "target": target, "seconds": ours, "seconds_trl": theirs}
    return {**told, "ratio": ratio}


def run_seed(seed: int, home: Path, held_out: HeldOut, args: argparse.Namespace) -> dict[str, Any]:
    start = held_out.point(held_out.rollouts(), step=0, seconds=0.0)
    assent, trl = {}, {}
    for name in args.assent_settings:
        assent[name] = run_assent(name, seed, home / f"seed-{seed}" / f"assent-{name}", held_out, args)
        print(f"seed {seed}: Assent, {name}, {assent[name]['command_seconds']:.0f} s", file=sys.stderr)
    for name in args.trl_settings:
        trl[name] = run_trl(name, seed, home / f"seed-{seed}" / f"trl-{name}", held_out, args)
        print(f"seed {seed}: TRL, {name}, {trl[name]['command_seconds']:.0f} s", file=sys.stderr)
    for ours in assent.values():
        for theirs in trl.values():
            check_first_round(ours, theirs)
    sooner = {name: compare(start["reward"], run, trl) for name, run in assent.items()}
    return {"seed": seed, "sooner": sooner, "start": start, "assent": assent, "trl": trl}


def check_first_round(ours: Mapping[str, float], theirs: Mapping[str, float]) -> None:
    """Both first rounds sample from one policy, so their mean scores may differ only by chance.

    Completions of one prompt are alike; the factor leaves room for that.
    """
    errors = abs(ours["first_round"] - theirs["first_round"]) / (ours["first_round_error"] * math.sqrt(2))
    if errors > SAME_MEAN:
        sys.exit(f"the first round's mean score is {ours['first_round']:.3f}, TRL's {theirs['first_round']:.3f}")


def stage_options(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A stage's options in rlhf.yaml, with the paths of a filled folder."""
    pipeline = yaml.safe_load(Path(__file__).with_name("rlhf.yaml").read_text())
    options = next(stage["options"] for stage in pipeline["stages"] if stage["name"] == name)
    paths = {"model": "sft/model", "reward": "reward/model", "data": "world/prompts.jsonl"}
    options |= {key: str((args.stages / path).resolve()) for key, path in paths.items()}
    return options | ({} if args.total_steps is None else {"total_steps": args.total_steps})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", required=True, help="python of an environment with TRL 1.9")
    parser.add_argument("--stages", type=Path, required=True, help="folder with world, sft and reward")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--assent-settings", nargs="+", default=list(ASSENT_SETTINGS), choices=list(ASSENT_SETTINGS))
    parser.add_argument("--trl-settings", nargs="+", default=list(TRL_SETTINGS), choices=list(TRL_SETTINGS))
    parser.add_argument("--save-steps", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4, help="answers to each test prompt")
    parser.add_argument("--probes", type=int, default=32, help="completions that both score before the runs")
    parser.add_argument("--total-steps", type=int, help="rounds, in the place of rlhf.yaml's")
    parser.add_argument("--completions", type=int, help="of a round, in the place of rlhf.yaml's 128")
    args = parser.parse_args()
    options = stage_options("ppo", args)
    of_a_round = options["batch_size"] * options.pop("num_completions", 1)  # TRL has one completion for each prompt
    options["batch_size"] = args.completions or of_a_round
    paths = {"model": Path(options["model"]), "reward": Path(options["reward"])}
    test = args.stages / "world" / "test_prompts.jsonl"
    held_out = HeldOut(**paths, data=test, options=options, samples=args.samples)
    with tempfile.TemporaryDirectory() as folder:
        runs = [run_seed(seed, Path(folder), held_out, args) for seed in args.seeds]
    ratios = {name: [run["sooner"][name]["ratio"] for run in runs] for name in args.assent_settings}
    medians = {name: statistics.median(found) if all(found) else None for name, found in ratios.items()}
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "assent")} | {"trl": "1.9"},
        "options": {name: str(value) for name, value in vars(args).items()} | {"ppo": options},
        "runs": runs,
        "sooner_than_trl": {"ratios": ratios, "median": medians},
        "target": TARGET,
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
