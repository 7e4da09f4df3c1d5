"""Case 29: pretrained -> instruction-tuned -> aligned -> selected: what each stage adds, on the same prompts.

It also shows what skipping a stage costs: the base model aligned without instruction tuning, or only selected from.

    python examples/cases/29_what_each_stage_adds.py          (some 10 minutes on two cores)
    python examples/cases/29_what_each_stage_adds.py --small  (a smoke test, whose numbers mean nothing)
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

STAGES = ["sft", "sft+dpo", "sft+dpo+best-of-n"]
SKIPPED = {"dpo": "sft+dpo", "best-of-n": "sft+dpo+best-of-n"}
"""Each method that skips stages, and the one that does not."""
COSINE = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "batch_size": 32}
OPTIONS: dict[str, dict[str, Any]] = {
    "sft": {**COSINE, "learning_rate": 1e-3, "num_train_epochs": 3},
    "reward": {**COSINE, "learning_rate": 1e-3, "num_train_epochs": 2},
    "dpo": {**COSINE, "learning_rate": 2e-4, "beta": 0.3, "num_train_epochs": 2},
}
FULL = {"demonstrations": 2000, "tests": 200, "pairs": 2000, "samples": 4, "n": 16, "batch": 32}
SMALL = {"demonstrations": 16, "tests": 3, "pairs": 16, "samples": 1, "n": 2, "batch": 8}


def main(*, small: bool = False, progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """Returns each method's row by its name; `start` is the base model."""
    size: Mapping[str, int] = SMALL if small else FULL
    progress = progress or Silent()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def step(command: str, **options: Any) -> dict[str, Any]:
            run = STEPS[command]
            config = parse_options(run.config_class(), {**options, "output_dir": str(folder / command)})
            return run.run(config, progress=progress)

        options = {command: {**given, "batch_size": size["batch"]} for command, given in OPTIONS.items()}
        world = step(
            "sandbox-world", num_demonstrations=size["demonstrations"], num_prompts=1, num_test_prompts=size["tests"]
        )
        writer = step("sft", model=world["model"], data=world["demonstrations"], max_length=256, **options["sft"])
        labels = step("sandbox-labels", model=writer["model_path"], num_pairs=size["pairs"], num_test_pairs=2)
        found = assent.compare(
            methods=[*STAGES, *SKIPPED],
            model=world["model"],
            data=labels["train"],
            demonstrations=world["demonstrations"],
            budget="labels",
            amounts=[2 * min(size["pairs"], size["demonstrations"])],  # half of it for each kind, where both are used
            demonstration_cost=2,
            comparison_cost=2,
            judge="assent.sandbox.gold:reward",
            test_data=world["test_prompts"],
            n=size["n"],
            max_length=256,
            max_new_tokens=40,
            samples_per_prompt=size["samples"],
            options=options,
            output_dir=str(folder / "compare"),
            progress=progress,
        )
    print("\n".join(found["lines"]), end="\n\n")
    rows = {row["method"]: row for row in found["rows"]}
    before = rows["start"]["score"]["value"]
    for stage in STAGES:
        now = rows[stage]["score"]["value"]
        print(f"{stage:<20} {before:.2f} -> {now:.2f}: the last stage adds {now - before:+.2f}")
        before = now
    for skipped, whole in SKIPPED.items():
        lost = rows[whole]["score"]["value"] - rows[skipped]["score"]["value"]
        print(f"{skipped:<20} {rows[skipped]['score']['value']:.2f}, {lost:.2f} less than {whole}")
    return rows


if __name__ == "__main__":
    main(small="--small" in sys.argv[1:], progress=progress_for_stderr())
