"""Does a reward model trained on whole rankings beat one trained on pairs drawn from the same rankings?

    python benchmarks/rankings.py --train ../shared/data/alpaca-eval.rankings.train.jsonl.gz \
        --test ../shared/data/alpaca-eval.rankings.test.jsonl.gz --output-dir out/rankings

Trains four reward models for each seed, all from the same start and with the same number of updates:

    one_pair        bradley_terry on one ordered pair of each ranking, drawn at random
    two_pairs       bradley_terry on two disjoint pairs of each ranking, drawn at random: reads as many completions
                    as the two that follow
    all_pairs       the mean over all ordered pairs of a ranking
    plackett_luce   the whole ranking's likelihood

Judges them on all ordered pairs of the test rankings. The seed determines pairs, order and head. Prints one JSON
document. The intervals of accuracies and of paired differences are two-way, over prompts and seeds. A finished run is
not repeated. Without `--model`, the start is a Llama with random weights (assent new-model) on a tokenizer of the
training texts. Such a model learns little in a few passes, and much of that is length; the figures beside accuracy say
how much.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from assent.config.stages import RewardConfig
from assent.data.loading import load_groups
from assent.evaluation.pairs import Pairs, pairs_of, text
from assent.models.new_model import new_model
from assent.rewards.reward_model import RewardModel
from assent.stages import reward
from assent.statistics.intervals import paired_difference, proportion_interval
from assent.types import Preference, PromptGroup

ARMS = {"one_pair": "bradley_terry", "two_pairs": "bradley_terry", "all_pairs": "all_pairs",
        "plackett_luce": "plackett_luce"}  # fmt: skip
KWISE, DRAWN = ("all_pairs", "plackett_luce"), ("one_pair", "two_pairs")


def scores_of(group: PromptGroup) -> Sequence[float]:
    assert group.preference is not None
    assert group.preference.scores is not None
    return group.preference.scores


def drawn_pairs(groups: Sequence[PromptGroup], *, arm: str, seed: int) -> list[PromptGroup]:
    """One pair of each ranking, or its completions in two disjoint pairs. Ties are drawn again, up to 20 times."""
    rows = []
    for n, group in enumerate(groups):
        generator, scores = random.Random(f"{seed}/{n}"), scores_of(group)
        for _ in range(20):
            order = generator.sample(range(len(scores)), len(scores))
            pairs = [order[:2], order[2:4]][: 1 if arm == "one_pair" else 2]
            pairs = [pair for pair in pairs if len(pair) == 2]
            if all(scores[a] != scores[b] for a, b in pairs):
                break
        for a, b in pairs:
            if scores[a] == scores[b]:
                continue
            better, worse = (a, b) if scores[a] > scores[b] else (b, a)
            completions = (group.completions[better], group.completions[worse])
            rows.append(replace(group, completions=completions, preference=Preference(ranking=(1, 2))))
    return rows


def train(arm: str, seed: int, groups: Sequence[PromptGroup], args: argparse.Namespace) -> str:
    """Trains the reward model, and returns its folder."""
    data = list(groups) if arm in KWISE else drawn_pairs(groups, arm=arm, seed=seed)
    updates = -(-len(groups) // args.batch_size) * args.epochs
    # Two pairs stand for one ranking; what a tie took from the drawn pairs is made up by the next pass's rows.
    config = RewardConfig(
        model=args.model,
        data=args.train,
        output_dir=str(Path(args.output_dir) / f"{arm}-{seed}"),
        loss_type=ARMS[arm],
        seed=seed,
        batch_size=args.batch_size * (2 if arm == "two_pairs" else 1),
        max_steps=updates,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_ratio=0.05,
        max_length=args.max_length,
        device=args.device,
        mixed_precision=args.mixed_precision,
        save_steps=0,
    )
    return str(reward.train(config, data=data).model_path)


def judge(folder: str, groups: Sequence[PromptGroup], pairs: Pairs, args: argparse.Namespace) -> dict[str, Any]:
    """(pairs,) 1 if right, a half for equal scores; and the correlation of score and length over completions."""
    model = RewardModel(folder, device=args.device if args.device != "auto" else "cpu", max_length=args.max_length)
    flat = [(group, text(completion)) for group in groups for completion in group.completions]
    scores = np.array(model.score([g.prompt for g, _ in flat], [t for _, t in flat], groups=[g for g, _ in flat]))
    starts = np.cumsum([0, *(len(group.completions) for group in groups)])[pairs.rows]
    right = 0.5 * (1 + np.sign(scores[starts + np.array(pairs.chosen)] - scores[starts + np.array(pairs.rejected)]))
    lengths = [len(t) for _, t in flat]
    return {"right": right, "score_length_correlation": float(np.corrcoef(scores, lengths)[0, 1])}


def summary(found: dict[str, list[dict[str, Any]]], pairs: Pairs, lengths: np.ndarray) -> dict[str, Any]:
    seeds = len(next(iter(found.values())))
    ways: dict[str, Any] = {
        "clusters": pairs.prompts * seeds,
        "second_clusters": [s for s in range(seeds) for _ in pairs.rows],
    }
    right = {arm: np.concatenate([run["right"] for run in runs]) for arm, runs in found.items()}
    return {
        "accuracy": {arm: proportion_interval(values, **ways).as_dict() for arm, values in right.items()},
        "accuracy_per_seed": {arm: [float(run["right"].mean()) for run in runs] for arm, runs in found.items()},
        "accuracy_of_length_alone": proportion_interval(0.5 * (1 + np.sign(lengths)), clusters=pairs.prompts).as_dict(),
        "score_length_correlation": {
            arm: [run["score_length_correlation"] for run in runs] for arm, runs in found.items()
        },
        "difference": {
            f"{kwise} - {drawn}": paired_difference(right[kwise], right[drawn], **ways).as_dict()
            for kwise in KWISE
            for drawn in DRAWN
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="prompt, completions, scores")
    parser.add_argument("--test", required=True, help="the same; no prompt in common")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--model", help="start: a causal model; none given: a small one with random weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rankings", type=int, default=0, help="the first so many of --train; 0: all")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16, help="rankings per update")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--hidden-size", type=int, default=256, help="of the model that is made")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--mixed-precision", default="no")
    args = parser.parse_args()
    started = time.monotonic()
    groups, held_out = list(load_groups(args.train))[: args.rankings or None], list(load_groups(args.test))
    if args.model is None:
        folder = Path(args.output_dir) / "start"
        if not folder.exists():
            texts = [text(completion) for group in groups for completion in group.completions]
            new_model(
                folder, texts=texts, vocab_size=8192, hidden_size=args.hidden_size, layers=args.layers, heads=4,
                context=max(2048, args.max_length), seed=0,
            )  # fmt: skip
        args.model = str(folder)
    pairs = pairs_of(held_out)
    longer = np.array([
        len(text(held_out[n].completions[a])) - len(text(held_out[n].completions[b]))
        for n, a, b in zip(pairs.rows, pairs.chosen, pairs.rejected, strict=True)
    ])  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in args.seeds:
        for arm in ARMS:
            found[arm].append(judge(train(arm, seed, groups, args), held_out, pairs, args))
            seconds, accuracy = time.monotonic() - started, found[arm][-1]["right"].mean()
            print(f"seed {seed} {arm}: {accuracy:.3f} on {len(pairs.rows)} pairs, {seconds:.0f} s", file=sys.stderr)
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in ("torch", "transformers", "assent")},
        "cores": os.cpu_count(),
        "options": vars(args),
        "train_rankings": len(groups),
        "test_pairs": len(pairs.rows),
        "test_prompts": len(set(pairs.prompts)),
    }
    print(json.dumps(document | summary(found, pairs, longer), indent=1))


if __name__ == "__main__":
    main()
