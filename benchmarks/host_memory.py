"""What does a process on a CPU gain by keeping the memory that it frees (`assent.models.host_memory`)?

    python benchmarks/host_memory.py --model MODEL --data hh.jsonl

Runs sampling (generate.py's two settings, Assent's side) and DPO steps of 8 pairs, in turn with glibc's own rule and
with Assent's, `--repeats` times. Each run is a process of its own. Prints one JSON document: every run, and the medians
of the ratios within each round, for the rate and for peak memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from against_trl import finished
from generate import SETTINGS
from sandbox import machine

STANDS_ASIDE = {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}
"""Changes nothing in glibc, but is a setting of the user's, which Assent leaves alone."""


def train(args: argparse.Namespace) -> None:
    """Runs DPO without reading or writing files, and prints one JSON line. The first of three passes is not timed."""
    from assent.config.stages import PreferenceConfig
    from assent.engine.learner import Learner
    from assent.engine.runtime import Runtime
    from assent.models.loading import load_policy
    from assent.models.module import AlignmentModel
    from assent.stages.preference import PreferenceObjective
    from assent.stages.references import with_reference
    from assent.stages.selecting import to_comparisons
    from assent.stages.stage_data import read_stage_data

    config = PreferenceConfig(
        model=args.model, data=args.data, output_dir="-", batch_size=8, max_length=1024, keep_template_tail=True
    )
    stage_data = read_stage_data(config, model=config.model, sources={"train": config.data}, select=to_comparisons)
    learner = Learner(
        AlignmentModel(load_policy(config.model), kind="policy"), runtime=Runtime("cpu"), optim=config, total_steps=99
    )
    groups = list(stage_data.train.tokens)[: args.pairs]
    logprobs = learner.read(groups, want={"logprobs"}).logprobs
    counted = [completion.num_counted for group in groups for completion in group.completions]
    groups = with_reference(groups, logprobs.new_tensor([part.sum() for part in logprobs.split(counted)]))
    objective = PreferenceObjective(config.entries)
    for number in range(3):
        if number == 1:
            started = time.perf_counter()
        for first in range(0, len(groups), 8):
            learner.update(groups[first : first + 8], objective)
    print(json.dumps({"pairs_per_s": 2 * len(groups) / (time.perf_counter() - started)}))


def run(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The run's last line, peak memory and page faults."""
    text, usage = finished([sys.executable, *arguments], **environment)
    found = json.loads(text.strip().splitlines()[-1])
    return {**found, "peak_bytes": usage.ru_maxrss * 1024, "page_faults": usage.ru_minflt}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="comparisons, JSONL with messages")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="one run of the DPO steps")
    args = parser.parse_args()
    if args.train:
        return train(args)
    given = ["--model", args.model, "--data", args.data]
    here = Path(__file__)
    work = {"dpo": [str(here), "--train", *given, "--pairs", str(args.pairs)]}
    for name, setting in SETTINGS.items():
        sizes = [x for key, value in setting.items() for x in (f"--{key}", str(value))]
        script = str(here.with_name("generate.py"))
        work[name] = [script, "--sample", *given, *sizes, "--new-tokens", str(args.new_tokens)]
    results: dict[str, Any] = {}
    for name, arguments in work.items():
        rounds = []
        for _ in range(args.repeats):
            rounds.append({"glibc": run(arguments, STANDS_ASIDE), "kept": run(arguments, {})})
            print(f"{name}: {json.dumps(rounds[-1])}", file=sys.stderr)
        rate = "pairs_per_s" if name == "dpo" else "tokens_per_s"
        ratios = {
            figure: statistics.median(row["kept"][figure] / row["glibc"][figure] for row in rounds)
            for figure in (rate, "peak_bytes", "page_faults")
        }
        results[name] = {"ratios": ratios, "rounds": rounds}
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    print(json.dumps({"date": time.strftime("%Y-%m-%d"), "machine": machine("cpu"), "versions": versions, **results}))


if __name__ == "__main__":
    main()
