"""Case 16: sample efficiency of SFT, DPO, PPO and best-of-N: at equal labels, equal completions, equal compute.

One question, three answers: what is scarce decides which method is best. The methods run on the sandbox, and its gold
reward judges them.

    python examples/cases/16_sample_efficiency.py          (some 20 minutes on two cores)
    python examples/cases/16_sample_efficiency.py --small  (a smoke test, whose numbers mean nothing)
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import assent
from assent.config.loading import parse_options
from assent.pipelines.steps import STEPS
from assent.runs.progress import Progress, Silent, progress_for_stderr

METHODS = ["sft", "dpo", "ppo", "best-of-n"]
COSINE = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "batch_size": 32, "num_train_epochs": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "sft": {**COSINE, "learning_rate": 2e-4},
    "reward": {**COSINE, "learning_rate": 1e-3},
    "dpo": {**COSINE, "learning_rate": 2e-4, "beta": 0.3},
    "ppo": {"learning_rate": 2e-4, "batch_size": 128, "num_completions": 1, "num_ppo_epochs": 2, "num_mini_batches": 2,
            "kl_coef": 0.2, "missing_eos_penalty": 1.0},
}  # fmt: skip
FULL = {"demonstrations": 2000, "prompts": 4000, "tests": 200, "pairs": 4000, "labels": [500, 4000], "rounds": 36,
        "completions": 8000, "samples": 4, "n": 16}  # fmt: skip
SMALL = {"demonstrations": 32, "prompts": 8, "tests": 3, "pairs": 16, "labels": [8, 16], "rounds": 1,
         "completions": 32, "samples": 1, "n": 2}  # fmt: skip


def main(*, small: bool = False, progress: Progress | None = None) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of `assent compare` for each budget."""
    size: Mapping[str, Any] = SMALL if small else FULL
    progress = progress or Silent()
    with tempfile.TemporaryDirectory() as folder:
        given = prepare(Path(folder), size, progress)

        def compare(budget: str, amounts: list[float], options: dict[str, Any], **extra: Any) -> list[dict[str, Any]]:
            found = assent.compare(
                methods=METHODS, budget=budget, amounts=amounts, options=options, **given, **extra,
                output_dir=f"{folder}/{budget}", progress=progress,
            )  # fmt: skip
            print("\n".join(found["lines"]), end="\n\n")
            return found["rows"]

        options = smaller(OPTIONS) if small else OPTIONS
        rounds = {**options, "ppo": {**options["ppo"], "total_steps": size["rounds"]}}
        rows = {"labels": compare("labels", size["labels"], rounds, n=size["n"])}
        rows["completions"] = compare("completions", [size["completions"]], options)
        flops = max(row["flops"] for row in rows["labels"]) * (4 if small else 1)  # what the dearest had there
        rows["flops"] = compare("flops", [flops], options)
    for budget, found in rows.items():
        last = [row for row in found if row["amount"] == found[-1]["amount"] and row["method"] != "start"]
        order = sorted(last, key=lambda row: -row["score"]["value"])
        print(f"equal {budget}: " + " > ".join(f"{row['method']} {row['score']['value']:.2f}" for row in order))
    return rows


def prepare(folder: Path, size: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Makes the start (instruction-tuned already), comparisons of its answers by gold with noise, and prompts."""

    def step(name: str, **options: Any) -> dict[str, Any]:
        run = STEPS[name]
        config = parse_options(run.config_class(), {**options, "output_dir": str(folder / name)})
        return run.run(config, progress=progress)

    world = step(
        "sandbox-world", num_demonstrations=size["demonstrations"], num_prompts=size["prompts"],
        num_test_prompts=size["tests"],
    )  # fmt: skip
    tuning = {"learning_rate": 1e-3, "batch_size": 32, "num_train_epochs": 3 if size is FULL else 1, "max_length": 256}
    start = step("sft", model=world["model"], data=world["demonstrations"], **tuning)["model_path"]
    labels = step("sandbox-labels", model=start, num_pairs=size["pairs"], num_test_pairs=2)
    return {
        "model": start,
        "data": labels["train"],
        "prompts": world["prompts"],
        "test_data": world["test_prompts"],
        "judge": "assent.sandbox.gold:reward",
        "max_length": 256,
        "max_new_tokens": 40,
        "samples_per_prompt": size["samples"],
    }


def smaller(options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    least = {name: {**given, "batch_size": 4} for name, given in options.items()}
    return {name: {**given, **({} if name == "ppo" else {"num_train_epochs": 1})} for name, given in least.items()}


if __name__ == "__main__":
    main(small="--small" in sys.argv[1:], progress=progress_for_stderr())
