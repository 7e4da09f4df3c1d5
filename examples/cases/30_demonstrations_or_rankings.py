"""Case 30: demonstrations against rankings at equal annotation cost, and both combined, from a base model.

A demonstration must be written, a comparison only read: here one demonstration costs as much as four comparisons. When
both are bought, half of the budget goes to each.

    python examples/cases/30_demonstrations_or_rankings.py          (some 10 minutes on two cores)
    python examples/cases/30_demonstrations_or_rankings.py --small  (a smoke test, whose numbers mean nothing)
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

BOUGHT = {"sft": "demonstrations", "dpo": "rankings", "sft+dpo": "both"}
COSINE = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "batch_size": 32}
OPTIONS: dict[str, dict[str, Any]] = {
    "sft": {**COSINE, "learning_rate": 1e-3, "num_train_epochs": 3},
    "dpo": {**COSINE, "learning_rate": 2e-4, "beta": 0.3, "num_train_epochs": 2},
}
FULL = {"demonstrations": 2000, "tests": 200, "pairs": 8000, "samples": 4, "amounts": [1000, 8000], "batch": 32,
        "price": 4}  # fmt: skip
SMALL = {"demonstrations": 8, "tests": 3, "pairs": 32, "samples": 1, "amounts": [16, 32], "batch": 8, "price": 4}


def main(*, small: bool = False, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Returns the rows of `assent compare`."""
    size: Mapping[str, Any] = SMALL if small else FULL
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
            methods=list(BOUGHT),
            model=world["model"],
            data=labels["train"],
            demonstrations=world["demonstrations"],
            demonstration_cost=size["price"],
            budget="labels",
            amounts=size["amounts"],
            judge="assent.sandbox.gold:reward",
            test_data=world["test_prompts"],
            max_length=256,
            max_new_tokens=40,
            samples_per_prompt=size["samples"],
            options=options,
            output_dir=str(folder / "compare"),
            progress=progress,
        )
    print("\n".join(found["lines"]), end="\n\n")
    for amount in size["amounts"]:
        rows = {row["method"]: row for row in found["rows"] if row["amount"] == amount}
        order = sorted(BOUGHT, key=lambda method: -rows[method]["score"]["value"])
        print(f"{amount:>6} spent: " + " > ".join(f"{BOUGHT[m]} {rows[m]['score']['value']:.2f}" for m in order))
    return found["rows"]


if __name__ == "__main__":
    main(small="--small" in sys.argv[1:], progress=progress_for_stderr())
