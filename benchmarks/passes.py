"""A reward model's step on a CPU: how it depends on the size of a pass, on passes at the same time, whole tables'
gradients and a cast for each layer.

    python benchmarks/passes.py --model MODEL --data hh.jsonl [--pairs 96] [--bf16] [--lora-r 16]

Makes the same updates of 8 pairs in turn with passes of each of `--tokens`. Then it repeats the first of these without
what `engine/passes.py`, `engine/row_gradients.py` or `models/half_products.py` does. There are `--repeats` rounds in
one process. Prints one JSON document: the seconds of all updates by round, and the median ratio of the first setting's
to each other's. The first round is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any
from unittest import mock

from sandbox import machine

Setting = tuple[int, Callable[[], AbstractContextManager[Any]]]


def settings(tokens: list[int]) -> dict[str, Setting]:
    """Each setting's name, the tokens of its passes, and what it switches off."""
    from assent.engine import learner, micro_batches
    from assent.models import half_products

    found: dict[str, Setting] = {f"{number} tokens": (number, nullcontext) for number in tokens}
    found["one pass at a time"] = (tokens[0], lambda: mock.patch.object(micro_batches, "workers", return_value=1))
    found["whole tables"] = (tokens[0], lambda: mock.patch.object(learner, "by_rows", return_value=nullcontext()))
    found["a cast for each layer"] = (tokens[0], lambda: mock.patch.object(half_products, "serves", return_value=False))
    return found


def run(args: argparse.Namespace) -> dict[str, list[float]]:
    from assent.config.stages import RewardConfig
    from assent.engine.learner import Learner
    from assent.engine.runtime import Runtime
    from assent.models.adapters import Base, add_adapter
    from assent.models.loading import load_scorer
    from assent.models.module import AlignmentModel
    from assent.stages.reward import objective_of
    from assent.stages.selecting import rankings_for
    from assent.stages.stage_data import read_stage_data

    precision = "bf16" if args.bf16 else "no"
    options = {"model": args.model, "data": args.data, "max_length": 1024, "mixed_precision": precision}
    config = RewardConfig(output_dir="-", **options, **({"lora_r": args.lora_r} if args.lora_r else {}))
    accepts = frozenset({"many", "tied", "margin", "chosen_probability"})
    stage_data = read_stage_data(
        config, model=config.model, sources={"train": config.data},
        select=lambda groups: rankings_for(groups, loss="bradley_terry", accepts=accepts),
    )  # fmt: skip
    runtime = Runtime("cpu", mixed_precision=precision)
    scorer = load_scorer(config.model)
    if args.lora_r:
        scorer = add_adapter(scorer, config, base=Base(config.model), seed=0)
    module = AlignmentModel(scorer, kind="scorer")
    learner = Learner(module, runtime=runtime, optim=config, total_steps=10**6)
    groups, objective = list(stage_data.train.tokens)[: args.pairs], objective_of(config)
    given = settings(args.tokens)
    seconds: dict[str, list[float]] = {name: [] for name in given}
    for number in range(args.repeats + 1):
        for name in list(given)[:: 1 if number % 2 else -1]:
            learner.budget.tokens, switched = given[name][0], given[name][1]
            started = time.perf_counter()
            with switched():
                for first in range(0, len(groups), 8):
                    learner.update(groups[first : first + 8], objective)
            seconds[name].append(time.perf_counter() - started)
    return {name: rounds[1:] for name, rounds in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="comparisons, JSONL")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 2560, 3072])
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--lora-r", type=int, default=0, help="LoRA of this rank on all linear layers; 0: all weights")
    args = parser.parse_args()
    seconds = run(args)
    first = next(iter(seconds.values()))
    medians = {
        name: statistics.median(a / b for a, b in zip(first, rounds, strict=True)) for name, rounds in seconds.items()
    }
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    document = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions}
    print(json.dumps({**document, "speed_over_the_first": medians, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
