"""What can be known of a run on CUDA without a GPU? Whole commands on a device that only says that it is cuda.

    python benchmarks/fake_cuda.py [--only PART …] [--waits 12]

Each part is one command of Assent on a Llama of 20,000 weights, once with `--device cpu` and once with `--device cuda` on
the device of `pretend_cuda.py`: its tensors say cuda:0, their numbers lie on the CPU, and what a GPU would refuse
raises. So forward and backward passes, heads, packing, losses, rounds of sampling with recorded steps, checkpoints and
the code that chooses by the device are walked as they stand, data and all; nothing is stubbed but the variable-length
kernel, which is replaced by what it documents.

Prints one JSON document. For each part: the largest difference of the update from that on the CPU, as a share of the
largest change of each tensor, and of the first step's metrics; how often the host waits for the device, with the lines
that do so most; how many decoding steps were recorded as graphs. Or where the part stopped, and why. `cannot` says what
no part of it shows. Exit status 1: a part stopped, or differs by more than its bound.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretend_cuda import RECORDED, STATE, pretended  # first: torch asks for CUDA when it is imported

# isort: split
import assent
from assent.cli import main as command

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.many_processes import METHODS, SAMPLES, arguments, differences, first_metrics, write_inputs

BOUND = {"float32": 1e-5, "bfloat16": 0.3}
"""Of an update. In bfloat16 the two devices round in different places, and a weight moves by few of its steps."""
SAME = ("loss", "grad_norm", "objective/scores", "objective/kl", "critic/loss", "critic/grad_norm", "cost/flops")
VARIANTS = {
    "dpo, activations recomputed": ("dpo", "--gradient-checkpointing"),
    "dpo, small micro-batches": ("dpo", "--micro-batch-tokens 64"),
    "dpo, whole-step loss": ("dpo", "--loss-type aot --micro-batch-tokens 64"),
    "dpo, bfloat16": ("dpo", "--dtype bfloat16"),
    "dpo, autocast": ("dpo", "--mixed-precision bf16"),
    "reward, three heads": ("reward", "--num-heads 3"),
    "ppo, shared trunk": ("ppo", "--trunk shared"),
    "ppo, one trunk": ("ppo", "--trunk one --lora-r 4 --reward tests.support.stages:brevity"),
    "ppo, frozen models offloaded": ("ppo", "--offload-frozen"),
    "ppo, bfloat16": ("ppo", "--dtype bfloat16"),
    "grpo, stop strings": ("grpo", "--stop a"),
}
CANNOT = [
    "numbers of CUDA's kernels, the variable-length one above all: it is replaced by what it documents",
    "streams, races, pinned memory and copies that have not ended when they are read",
    "memory: allocation, what runs out of it, what fragments",
    "what a real recording of a graph refuses beyond waiting: libraries that set themselves up, memory that moves",
    "times",
    "several devices, NCCL, 4-bit weights, vLLM",
    "operations that CUDA lacks or does in another way for some type",
]


def walked(argv: list[str]) -> str | None:
    """Runs the command. Returns None, or where it stopped and why."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = command([*argv, "--debug"])
    return None if status == 0 else stopped(said.getvalue())


def stopped(trace: str) -> str:
    """The innermost line of the package in a traceback, and the error."""
    lines = re.findall(r'File ".*?/(?:assent|benchmarks)/(\S+?)", line (\d+)', trace)
    at = ":".join(lines[-1]) if lines else "?"
    return f"{at}: {' '.join(trace.strip().splitlines()[-3:])[-600:]}"


def on_both(method: str, more: str, inputs: dict[str, str], folder: Path, start: Any, waits: int) -> dict[str, Any]:
    """One update, or round, on the CPU and on the pretended device."""
    runs = {device: folder / device for device in ("cpu", "cuda")}
    argv = {
        device: [*arguments(method, inputs, run, adapter=False, steps=2), *more.split(), "--device", device]
        for device, run in runs.items()
    }
    if "bfloat16" in more or "bf16" in more:
        argv["cpu"].append("--allow-slow-dtype")
    if "--offload-frozen" in argv["cpu"]:
        argv["cpu"].remove("--offload-frozen")
    if (why := walked(argv["cpu"])) is not None:
        return {"stopped_on_the_cpu": why}
    with pretended() as state:
        why = walked(argv["cuda"])
    told = {"operations": state.operations, "waits": sum(state.waits.values()), "most": dict(state.waits.most_common(waits))}
    if method in SAMPLES:
        told["recorded_steps"] = len(RECORDED)
    if why is not None:
        return {"stopped": why, **told}
    found, expected = first_metrics(runs["cuda"]), first_metrics(runs["cpu"])
    apart = {n: abs(found[n] - expected[n]) / max(abs(expected[n]), 1e-6) for n in SAME if n in expected}
    update = max(differences(runs["cuda"], runs["cpu"], start).values())
    bound = BOUND["bfloat16" if "bf" in more else "float32"]
    return {"within": update < bound, "update": update, "metrics": max(apart.values()), **told}


def part_of_first_gpu(name: str, given: Namespace, waits: int) -> dict[str, Any]:
    """A part of first_gpu.sh, whose bounds are its own."""
    import first_gpu_parts

    with pretended() as state:
        try:
            found = getattr(first_gpu_parts, name)(given)
        except Exception as error:  # whatever stops it is the result
            import traceback

            return {"stopped": stopped(traceback.format_exc()), "error": repr(error)[:300]}
    return {**found, "operations": state.operations, "most": dict(state.waits.most_common(waits))}


def parts(inputs: dict[str, str], folder: Path, waits: int) -> dict[str, Callable[[], dict[str, Any]]]:
    from safetensors.torch import load_file

    start = load_file(Path(inputs["model"]) / "model.safetensors")
    table = {method: (method, "") for method in METHODS}
    table |= {f"{method}, LoRA": (method, "--lora-r 4") for method in METHODS} | VARIANTS
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for number, (name, (method, more)) in enumerate(table.items()):
        at = folder / str(number)
        found[name] = lambda m=method, o=more, at=at: on_both(m, o, inputs, at, start, waits)  # type: ignore[misc]
    given = Namespace(device="cuda", model=inputs["model"], data=inputs["comparisons"])
    for name in ("attention", "graphs"):
        found[f"first_gpu: {name}"] = lambda n=name: part_of_first_gpu(n, given, waits)  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="parts by their names")
    parser.add_argument("--waits", type=int, default=5, help="lines that wait, of each part")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["ASSENT_CACHE"] = str(folder / "cache")
        table = parts(write_inputs(folder), folder, args.waits)
        if unknown := set(args.only or ()) - set(table):
            sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are: {', '.join(table)}")
        found = {}
        for part, run in table.items():
            if not args.only or part in args.only:
                began = time.monotonic()
                found[part] = run()
                print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    good = all(part.get("within", "stopped" not in part) and "stopped_on_the_cpu" not in part for part in found.values())
    print(json.dumps({"version": assent.__version__, "good": good, "parts": found, "cannot": CANNOT}, indent=1))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    assert STATE is not None
    main()
