"""Do memory and step time stay flat? PPO on the sandbox, and `sample` over a long file, for twenty minutes each.

    python benchmarks/soak.py [--minutes 20] [--parts ppo sample]

`assent ppo` trains the sandbox's base model against gold, and ends by SIGTERM, as a scheduler would end it. `assent
sample` draws answers to a file of `--rows` prompts in shards of 64, and is ended so too. Once a second the resident
memory of the process is read. The first `--warm-up` share of the time is left out: caches and the allocator fill then.
A step's time is that between two lines of metrics.jsonl; of `sample` that between two files of shards. PPO's answers
may grow longer, so the time for each sampled token is told as well.

Each slope is that of least squares through the means of 20 blocks of equal length, since neighbouring readings are
alike, with its 95% interval (Student's t, 18 degrees of freedom). `flat`: the interval contains zero, or the slope over
the whole time is within 1% of the mean. Prints one JSON document, with the blocks' means.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import assent
from assent.config.sandbox import SandboxWorldConfig
from assent.data.loading import write_groups
from assent.sandbox.steps import write_world
from assent.sandbox.world import World
from assent.statistics.small import slope

# isort: split
from sandbox import platform_name

BLOCKS, SMALL = 20, 0.01
SHARD_ROWS = 64


def slope_of(at: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """The slope of `values` over `at` through the means of blocks, per unit of `at`, with its interval."""
    number = min(BLOCKS, len(values) // 2)
    if number < 3:
        return {"readings": len(values), "too_few": f"at least {2 * 3} are needed"}
    x = np.array([block.mean() for block in np.array_split(np.asarray(at, float), number)])
    y = np.array([block.mean() for block in np.array_split(np.asarray(values, float), number)])
    fit, mean = slope(x.tolist(), y.tolist()), float(np.mean(values))
    over_all = fit.value * float(x[-1] - x[0]) / mean
    return {
        "readings": len(values),
        "mean": mean,
        "slope": fit.value,
        "interval": [fit.low, fit.high],
        "share_of_mean_over_the_whole_time": over_all,
        "flat": bool(fit.low <= 0 <= fit.high or abs(over_all) <= SMALL),
        "blocks": y.tolist(),
    }


def watched(command: Sequence[str], seconds: float, count: Callable[[], int]) -> tuple[list[tuple[float, float]], int]:
    """Runs the command for so long, and ends it by SIGTERM. Returns (seconds, resident bytes) once a second, from the
    first result on (`count` counts them), and the exit status."""
    page, readings = os.sysconf("SC_PAGE_SIZE"), []
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, text=True)
        started = None
        while process.poll() is None:
            now = time.time()
            if started is None and count():
                started = now
            if started is not None:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                readings.append((now, float(pages * page)))
                if now - started > seconds:
                    process.send_signal(signal.SIGTERM)
                    process.wait()
                    break
            time.sleep(min(1.0, seconds / 60))
        said.seek(0)
        if process.returncode not in (0, 130):
            sys.exit(f"{' '.join(command)} failed with status {process.returncode}:\n{said.read()[-2000:]}")
    return readings, process.returncode


def report(readings: Sequence[tuple[float, float]], warm_up: float, **series: Sequence[tuple[float, float]]) -> Any:
    """The slopes of memory, in bytes a second, and of other series of (seconds, value), without the warm-up."""
    first = readings[0][0] + warm_up * (readings[-1][0] - readings[0][0])
    named = {"resident_bytes": readings, **series}
    found = {}
    for name, rows in named.items():
        kept = [(at, value) for at, value in rows if at >= first]
        found[name] = slope_of([at - first for at, _ in kept], [value for _, value in kept])
    return found


def ppo(folder: Path, world: dict[str, str], args: argparse.Namespace) -> dict[str, Any]:
    run = folder / "ppo"
    command = [sys.executable, "-m", "assent", "ppo", "--model", world["model"], "--data", world["prompts"]]
    command += ["--reward", "assent.sandbox.gold:reward", "--output-dir", str(run), "--total-steps", "1000000"]
    command += ["--batch-size", str(args.batch_size), "--max-length", "256", "--max-new-tokens", "64"]
    command += ["--learning-rate", "1e-5", "--save-steps", "50", "--no-stop"]
    log = run / "metrics.jsonl"
    readings, status = watched(command, 60 * args.minutes, lambda: log.exists() and log.read_text().count("\n"))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [row for row in rows if "cost/seconds" in row]
    start = readings[0][0] - rows[0]["cost/seconds"]
    pairs = list(pairwise(rows))
    took = [(start + row["cost/seconds"], row["cost/seconds"] - before["cost/seconds"]) for before, row in pairs]
    drawn = [max(1.0, row["rollout/completion_length"] * args.batch_size) for _, row in pairs]
    each = [(at, seconds / tokens) for (at, seconds), tokens in zip(took, drawn, strict=True)]
    slopes = report(readings, args.warm_up, step_seconds=took, step_seconds_for_each_token=each)
    return {"steps": len(rows), "exit_status": status, **slopes}


def sample(folder: Path, world: dict[str, str], args: argparse.Namespace) -> dict[str, Any]:
    data, out = folder / "long.jsonl", folder / "sample"
    groups = World(0).prompts("rl", 2000, 0)
    draw = random.Random(0)
    write_groups(data, [draw.choice(groups) for _ in range(args.rows)], "prompts")
    command = [sys.executable, "-m", "assent", "sample", "--model", world["model"], "--data", str(data)]
    command += ["--output-dir", str(out), "--num-shards", str(-(-args.rows // SHARD_ROWS)), "--max-length", "256"]
    command += ["--max-new-tokens", "64"]
    readings, status = watched(command, 60 * args.minutes, lambda: len(list(out.glob("shards/0*.jsonl"))))
    ends = sorted(path.stat().st_mtime for path in out.glob("shards/0*.jsonl"))
    took = [(end, end - before) for before, end in pairwise(ends)]
    return {"shards": len(ends), "exit_status": status, **report(readings, args.warm_up, shard_seconds=took)}


PARTS = {"ppo": ppo, "sample": sample}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of each part")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--warm-up", type=float, default=0.1, help="share of the time that is left out")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=200_000, help="of the long file")
    args = parser.parse_args()
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "version": assent.__version__,
        "machine": {"processor": platform_name(), "cores": os.cpu_count()},
        "minutes": args.minutes,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = SandboxWorldConfig(output_dir=str(folder / "world"), num_prompts=4000)
        world = write_world(config)
        for part in args.parts:
            document[part] = PARTS[part](folder, world, args)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
