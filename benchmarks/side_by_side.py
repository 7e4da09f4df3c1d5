"""PPO's updates on a CPU: policy and critic side by side, each on its share of the threads, or one after the other?

    python benchmarks/side_by_side.py --model MODEL --reward REWARD_MODEL --data prompts.jsonl [--batch-size 32]

Runs of `--total-steps` rounds alternate, `--repeats` pairs of them, each in a process of its own. Only one thing
differs: which models may share the cores (`engine/side_by_side.py`). Prints one JSON document: seconds of a round's
updates (the median after the first round), peak memory, and the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from against_trl import measured
from sandbox import machine

SETTINGS = {"side by side": 10**12, "in order": 0}
"""Most parameters of a model that shares the cores."""


def run(args: argparse.Namespace) -> None:
    """Does one run in this process, and prints the seconds of its rounds' updates."""
    import assent
    from assent.engine import side_by_side

    side_by_side.MOST_PARAMETERS = SETTINGS[args.run]
    with tempfile.TemporaryDirectory() as folder:
        assent.ppo(
            model=args.model, reward=args.reward, data=args.data, output_dir=f"{folder}/run", device="cpu",
            max_length=args.max_length, max_new_tokens=args.max_new_tokens, total_steps=args.total_steps,
            batch_size=args.batch_size, num_ppo_epochs=2, num_mini_batches=2, save_steps=0,
        )  # fmt: skip
        rows = [json.loads(line) for line in Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()]
    seconds = []
    for row in rows:  # a round lasted as long as its sampling did, over the share that sampling has of it
        if "objective/scores" in row:
            tokens = row["rollout/completion_length"] * 4 * args.batch_size
            seconds.append(tokens / row["rollout/tokens_per_second"] / row["time/generate"] * row["time/train"])
    print(json.dumps(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--reward", required=True, help="a reward model's folder; the critic starts from it")
    parser.add_argument("--data", required=True, help="prompts, JSONL; at least as many as a round has")
    parser.add_argument("--batch-size", type=int, default=32, help="prompts of a round, four completions of each")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--total-steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", choices=list(SETTINGS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return run(args)
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    peaks: dict[str, list[int]] = {name: [] for name in SETTINGS}
    for number in range(args.repeats):
        for name in list(SETTINGS)[:: 1 if number % 2 else -1]:
            out, peak = measured([sys.executable, __file__, *sys.argv[1:], "--run", name])
            seconds[name].append(statistics.median(json.loads(out.splitlines()[-1])[1:]))
            peaks[name].append(peak)
    one, other = (seconds[name] for name in SETTINGS)
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    document: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions}
    document |= {"threads": os.environ.get("OMP_NUM_THREADS", "the machine's"), "seconds": seconds, "peak_bytes": peaks}
    document["ratio"] = statistics.median(b / a for a, b in zip(one, other, strict=True))
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
