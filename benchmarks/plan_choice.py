"""Is the plan's choice the best? All methods that each of five kinds of data allows, on the sandbox, judged by gold.

    python benchmarks/plan_choice.py --output-dir out/plan-choice [--seeds 3]

For each kind the plan writes the pipeline of every possible method (`--method`), which runs as it stands but for rates
that suit the small model. The start is one instruction-tuned model; a seed draws labels, training and answers anew. The
table has each method's mean gold on the same test prompts, and the choice's difference from the best, paired by prompt
and seed. Left out: online DPO and GRPO where the reward must be learned (PPO stands for them), collecting, iterating.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import assent
from assent.data.loading import load_groups, write_groups
from assent.runs.progress import Silent
from assent.sandbox.base_model import base_folder
from assent.sandbox.documents import demonstrations
from assent.sandbox.labellers import label
from assent.sandbox.settings import LabelSettings
from assent.sandbox.world import World
from assent.statistics.intervals import mean_interval, paired_difference
from assent.types import PromptGroup

GOLD = "assent.sandbox.gold:reward"
SKIPPED = {"collect", "iterated-dpo"}
LEARNED = {"online-dpo", "grpo"}
"""Skipped where the reward must be learned."""
KINDS: Mapping[str, Mapping[str, Any]] = {
    "few pairs": {"labels": "pairs", "number": 150, "num_completions": 2},
    "pairs": {"labels": "pairs", "number": 1200, "num_completions": 2},
    "thumbs": {"labels": "thumbs", "number": 1200, "num_completions": 1},
    "rankings of 4": {"labels": "rankings", "number": 300, "num_completions": 4},
    "a computed reward": {},
}
LAYOUTS = {"pairs": "comparisons", "thumbs": "thumbs", "rankings": "rankings"}
RATES = {"sft": 2e-4, "dpo": 2e-4, "kto": 2e-4, "reward": 1e-3, "ppo": 2e-4, "grpo": 2e-4, "online-dpo": 2e-4}
COSINE = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "num_train_epochs": 2}
ROUNDS = {"total_steps": 16, "batch_size": 16, "num_completions": 4, "max_new_tokens": 40}
STRENGTH = {"dpo": {"beta": 0.3}, "online-dpo": {"beta": 0.3}, "ppo": {"kl_coef": 0.2, "num_ppo_epochs": 2}}
LENGTH = 256
ANSWERS = {"max_length": LENGTH, "max_new_tokens": 40}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--tests", type=int, default=100, help="test prompts")
    given = parser.parse_args()
    folder, began = Path(given.output_dir), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    test = _written(folder / "test.jsonl", World(0).prompts("test", given.tests, 0), "prompts")
    start = _start(folder)
    found = {}
    for kind in given.kinds:
        found[kind] = _kind(kind, start=start, test=test, folder=folder, seeds=given.seeds)
        document = {"kinds": found, "seconds": time.monotonic() - began, "seeds": given.seeds, "tests": given.tests}
        (folder / "plan_choice.json").write_text(json.dumps(document, indent=1))
    print(f"{time.monotonic() - began:.0f} s")


def _start(folder: Path) -> str:
    data = _written(folder / "demonstrations.jsonl", demonstrations(World(0), 1500, 0), "demonstrations")
    return str(
        assent.sft(
            model=str(base_folder(0)), data=data, output_dir=folder / "start", learning_rate=1e-3, batch_size=32,
            max_length=LENGTH, num_train_epochs=2, lr_scheduler_type="cosine", warmup_ratio=0.05, progress=Silent(),
        ).model_path
    )  # fmt: skip


def _kind(kind: str, *, start: str, test: str, folder: Path, seeds: int) -> dict[str, Any]:
    """Runs every possible method; prints and returns the table."""
    scores: dict[str, dict[tuple[int, str], float]] = {}
    chosen = ""
    for seed in range(seeds):
        here = folder / kind.replace(" ", "-") / f"seed-{seed}"
        data = _data(kind, start, here, seed)
        given: dict[str, Any] = {"model": start, "data": [data], "start": "instruct"}
        if kind == "a computed reward":
            given["reward"] = GOLD
        choice = assent.plan(**given)["choice"]
        chosen = choice["method"]
        methods = [chosen, *(one["method"] for one in choice["alternatives"] if one["excluded"] is None)]
        left_out = SKIPPED if "reward" in given else SKIPPED | LEARNED
        for method in [method for method in methods if method not in left_out]:
            policy = _trained(method, given, here / method, test=test, seed=seed)
            for prompt, score in _scores(policy, start, test=test, folder=here / f"{method}-scores", seed=seed):
                scores.setdefault(method, {})[seed, prompt] = score
    return _table(kind, chosen, scores)


def _data(kind: str, start: str, here: Path, seed: int) -> str:
    """Labels of the start's own answers; or prompts alone."""
    here.mkdir(parents=True, exist_ok=True)
    settings = KINDS[kind]
    number = settings.get("number", 400)
    asked = _written(here / "asked.jsonl", World(0).prompts("preference", int(number * 1.1), seed), "prompts")
    if not settings:
        return asked
    answers = assent.sample(model=start, data=asked, output_dir=here / "answers", seed=seed, progress=Silent(),
                            num_completions=settings["num_completions"], **ANSWERS)  # fmt: skip
    groups = _grouped(list(load_groups(asked)), list(load_groups(answers["completions"], lenient=True)))
    groups = [group for group in groups if len(group.completions) == settings["num_completions"]][:number]
    labelled = label(
        groups, LabelSettings(source="sft", **{**settings, "number": len(groups)}), world=World(0), seed=seed
    )
    return _written(here / "labelled.jsonl", labelled.groups, LAYOUTS[settings["labels"]])


def _grouped(prompts: Sequence[PromptGroup], answers: Sequence[PromptGroup]) -> list[PromptGroup]:
    """Each prompt, with its columns, and the answers to it."""
    by_prompt: dict[str, list[Any]] = {}
    for answer in answers:
        by_prompt.setdefault(repr(answer.prompt), []).extend(answer.completions)
    return [replace(group, completions=tuple(by_prompt.get(repr(group.prompt), ()))) for group in prompts]


def _trained(method: str, given: Mapping[str, Any], here: Path, *, test: str, seed: int) -> str:
    """Runs the plan's file; the trained model's folder, or the file of chosen answers to the test prompts."""
    file = here.with_suffix(".yaml")
    if not file.exists():
        assent.plan(**given, method=method, output=file)
    changes: list[str] = []
    for stage in assent.plan(**given, method=method)["stages"]:
        name, command = stage["name"], stage["command"]
        options: dict[str, Any] = {}
        if command in RATES:
            options |= {"learning_rate": RATES[command], "max_length": LENGTH, **STRENGTH.get(command, {})}
            options |= COSINE if command in ("sft", "dpo", "kto", "reward") else ROUNDS
        if command == "best-of-n":
            options |= {"data": test, **ANSWERS}
        changes += [f"{name}.{option}={value}" for option, value in options.items()]
    outputs = assent.run(file, output_dir=str(here), seed=seed, overrides=changes, progress=Silent()).outputs
    return outputs["best"]["completions"] if "best" in outputs else outputs["train"]["model_path"]


def _scores(policy: str, start: str, *, test: str, folder: Path, seed: int) -> list[tuple[str, float]]:
    """Mean gold of the policy's answers to each test prompt."""
    found = assent.evaluate(
        policies={"start": start, "trained": policy}, baseline="start", data=test, judge=GOLD, seed=seed,
        samples_per_prompt=2 if Path(policy).is_dir() else None, output_dir=folder, progress=Silent(), **ANSWERS,
    )  # fmt: skip
    policies = json.loads(Path(found["evaluation"]).read_text())["policies"]
    rows = next(one for one in policies if one["name"] == "trained")["sampled"]["scores"]
    return [(str(number), sum(row) / len(row)) for number, row in enumerate(rows) if row]


def _table(kind: str, chosen: str, scores: Mapping[str, Mapping[tuple[int, str], float]]) -> dict[str, Any]:
    def interval(values: Mapping[tuple[int, str], float]) -> Any:
        return mean_interval(
            list(values.values()), clusters=[p for _, p in values], second_clusters=[s for s, _ in values]
        )

    means = {method: interval(values) for method, values in scores.items()}
    best = max(means, key=lambda method: means[method].value)
    common = sorted(scores[chosen].keys() & scores[best].keys())
    behind = paired_difference(
        [scores[chosen][key] for key in common], [scores[best][key] for key in common],
        clusters=[prompt for _, prompt in common], second_clusters=[seed for seed, _ in common],
    )  # fmt: skip
    within = chosen == best or behind.high >= 0
    print(f"\n{kind}: the plan says {chosen}; best is {best}; difference {behind.text()}: "
          f"{'within' if within else 'NOT within'} the interval of the best")  # fmt: skip
    for method, estimate in sorted(means.items(), key=lambda item: -item[1].value):
        print(f"  {method:<12}{estimate.text()}{'  (chosen)' if method == chosen else ''}", flush=True)
    return {
        "chosen": chosen, "best": best, "within": within, "difference": behind.as_dict(),
        "gold": {method: estimate.as_dict() for method, estimate in means.items()},
    }  # fmt: skip


def _written(path: Path, groups: Sequence[PromptGroup], layout: str) -> str:
    write_groups(path, groups, layout)
    return str(path)


if __name__ == "__main__":
    main()
