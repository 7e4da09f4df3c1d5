"""How does the cost of a comparison grow with its shape, with the prompt read once for its completions and without?

    python benchmarks/growth.py --model MODEL --output-dir benchmarks

Puts synthetic rows of random ids through the Learner: forward, backward and optimiser step. "Without" gives every
completion its own copy of the prompt. The same code packs it without padding, so that only the sharing differs. Each
cell is two processes, run in turn `--repeats` times. The speed-up is the median of the rounds' ratios. The bound is
what the roofline formula of `assent.models.shape` allows. Writes growth.json and growth.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import assent  # noqa: F401  # before torch: it says how OpenMP's threads wait

RATIOS = (0.25, 1.0, 4.0, 8.0)
LENGTHS = (256, 512, 1024, 2048, 4096)
COMPLETIONS = (2, 4, 8)


def cells(max_length: int) -> list[tuple[str, int, float, int]]:
    """(axis, length of prompt plus one completion, prompt : completion, K)"""
    found = [("ratio", 1024, ratio, 2) for ratio in RATIOS]
    found += [("length", length, 1.0, 2) for length in LENGTHS if length <= max_length]
    return found + [("completions", 1024, 4.0, k) for k in COMPLETIONS]


def work(args: argparse.Namespace) -> None:
    """Runs one cell in one mode. Prints groups per second, peak memory and FLOPs of a group."""
    import numpy as np
    import torch

    from assent.config.stages import SftConfig
    from assent.engine.learner import Learner
    from assent.engine.runtime import Runtime
    from assent.models.batch import TokenCompletion, TokenGroup
    from assent.models.loading import load_policy
    from assent.models.module import AlignmentModel
    from assent.stages.sft import SftObjective

    length, ratio, k = args.cell
    prompt = round(length * ratio / (1 + ratio))
    draw = np.random.default_rng(0)
    vocabulary = json.loads((Path(args.model) / "config.json").read_text())["vocab_size"]

    def ids(number: int) -> tuple[int, ...]:
        return tuple(draw.integers(10, vocabulary, number).tolist())

    groups = []
    for _ in range(args.groups):
        shared, completions = ids(prompt), [TokenCompletion(ids(length - prompt)) for _ in range(k)]
        parts = [completions] if args.mode == "shared" else [[c] for c in completions]
        groups += [TokenGroup(shared, tuple(part)) for part in parts]
    optim = SftConfig(model=args.model, data="-", output_dir="-", learning_rate=1e-5)
    runtime = Runtime(args.device, mixed_precision="bf16" if args.bf16 else "no")
    learner = Learner(
        AlignmentModel(load_policy(args.model), kind="policy"), runtime=runtime, optim=optim, total_steps=9
    )
    learner.update(groups, SftObjective())
    started = time.perf_counter()
    learner.update(groups, SftObjective())
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if runtime.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    flops = 3 * learner.cost.forward(groups) / args.groups
    print(json.dumps({"groups_per_s": args.groups / seconds, "peak_bytes": peak, "flops": flops}))


def measure(mode: str, cell: tuple[int, float, int], args: argparse.Namespace) -> dict[str, float]:
    groups = max(1, min(8, args.tokens // (cell[0] * cell[2])))
    command = [sys.executable, __file__, "--model", args.model, "--device", args.device, "--groups", str(groups)]
    command += ["--mode", mode, "--cell", *map(str, cell)] + (["--bf16"] if args.bf16 else [])
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def draw_plot(rows: list[dict[str, float | str]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    titles = {"ratio": "prompt : completion", "length": "prompt + completion, tokens", "completions": "K"}
    for axis, name in zip(axes, titles, strict=True):
        mine = [row for row in rows if row["axis"] == name]
        x = [row["k" if name == "completions" else name] for row in mine]
        axis.plot(x, [row["speedup"] for row in mine], "o-", color="#1b6ca8", label="measured")
        axis.plot(x, [row["bound"] for row in mine], "s--", color="#b0562b", label="FLOP bound")
        axis.set_xscale("log", base=2)
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.set_xlabel(titles[name])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("speed-up by reading a prompt once")
    axes[0].legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output-dir", default="benchmarks")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a step, about")
    parser.add_argument("--max-length", type=int, default=4096)
    parser.add_argument("--groups", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    parser.add_argument("--cell", nargs=3, type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        args.cell = (int(args.cell[0]), args.cell[1], int(args.cell[2]))
        return work(args)
    rows: list[dict[str, float | str]] = []
    for axis, *cell in cells(args.max_length):
        rounds = [{mode: measure(mode, tuple(cell), args) for mode in ("shared", "alone")} for _ in range(args.repeats)]
        row: dict[str, float | str] = {"axis": axis, "length": cell[0], "ratio": cell[1], "k": cell[2]}
        row["speedup"] = statistics.median(r["shared"]["groups_per_s"] / r["alone"]["groups_per_s"] for r in rounds)
        row["bound"] = rounds[0]["alone"]["flops"] / rounds[0]["shared"]["flops"]
        for mode in ("shared", "alone"):
            row[f"groups_per_s_{mode}"] = statistics.median(r[mode]["groups_per_s"] for r in rounds)
            row[f"peak_bytes_{mode}"] = statistics.median(r[mode]["peak_bytes"] for r in rounds)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    head = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "versions": versions, "rows": rows}
    (folder / "growth.json").write_text(json.dumps(head, indent=1) + "\n")
    draw_plot(rows, folder / "growth.svg")


if __name__ == "__main__":
    main()
