"""What can be known of a run on CUDA without a GPU? Whole commands on a device that only says that it is cuda.

    python benchmarks/fake_cuda.py [--only PART …] [--waits 5]

Each part is one command of Assent on a Llama of 20,000 weights, once with `--device cpu` and once with `--device cuda`
on the device of `pretend_cuda.py`: its tensors say cuda:0, their numbers lie on the CPU, and what a GPU would refuse
raises. So forward and backward passes, heads, packing, losses, rounds of sampling with recorded steps, checkpoints and
the code that chooses by the device are walked as they stand, data and all; nothing is stubbed but the variable-length
kernel, which is replaced by what it documents.

Prints one JSON document. For each part: the largest difference of the update from that on the CPU, as a share of the
largest change of each tensor, and of the first step's metrics, as a share of themselves or of 0.001; how often the host
waits for the device, with the lines that do so most; how many decoding steps were recorded as graphs. Or where the part
stopped, and why. `cannot` says what no part of it shows. Exit status 1: a part stopped, or differs by more than its
bound.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import assent  # first: it says how OpenMP's threads wait

# isort: split
from pretend_cuda import RECORDED, STATE, pretended  # then: torch asks for CUDA when it is imported

# isort: split
import peft  # noqa: F401  # before the device is there: bitsandbytes, which it imports, asks for CUDA's own functions

from assent.cli import main as command

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.many_processes import METHODS, SAMPLES, arguments, differences, first_metrics, write_inputs

BOUND = {"float32": 1e-5, "bfloat16": 0.3}
"""Of an update. In bfloat16 the two devices round in different places, and a weight moves by few of its steps."""
LORA = "--lora-r 4"
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
}
ON_SAMPLES = "--max-new-tokens 6 --max-length 64 --data prompts"
FILES = {
    "sample": f"sample {ON_SAMPLES} --model model --num-completions 3 --stop a",
    "sample, realigned": f"sample {ON_SAMPLES} --model model --num-completions 2 --reference other --realignment 1.5",
    "best-of-n": f"best-of-n {ON_SAMPLES} --model model --reward rm --n 4",
    "best-of-n, blocks": f"best-of-n {ON_SAMPLES} --model model --reward rm --n 3 --block-size 2",
    "score": "score --data comparisons --reward rm",
    "score, log-probabilities": "score --data comparisons --logprobs model --max-length 64",
}
"""Commands whose file of rows is compared, their texts exactly and their numbers to 1e-4."""
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
    steps = 2 if more in ("", LORA) else 1  # the second round samples with other weights
    argv = {device: arguments(method, inputs, run, adapter=False, steps=steps) for device, run in runs.items()}
    for device, words in argv.items():
        if "--reward" in more.split():  # in the place of the method's own
            del words[words.index("--reward") : words.index("--reward") + 2]
        words += [*more.split(), "--device", device]
    if "bfloat16" in more or "bf16" in more:
        argv["cpu"].append("--allow-slow-dtype")
    if "--offload-frozen" in argv["cpu"]:
        argv["cpu"].remove("--offload-frozen")
    if (why := walked(argv["cpu"])) is not None:
        return {"stopped_on_the_cpu": why}
    with pretended() as state:
        why = walked(argv["cuda"])
    told = {
        "operations": state.operations,
        "waits": sum(state.waits.values()),
        "most": dict(state.waits.most_common(waits)),
    }
    if method in SAMPLES:
        told["recorded_steps"] = len(RECORDED)
    if why is not None:
        return {"stopped": why, **told}
    found, expected = first_metrics(runs["cuda"]), first_metrics(runs["cpu"])
    apart = {n: abs(found[n] - expected[n]) / max(abs(expected[n]), 1e-3) for n in SAME if n in expected}
    update = max(differences(runs["cuda"], runs["cpu"], start).values())
    bound = BOUND["bfloat16" if "bf" in more else "float32"]
    return {"within": update < bound, "update": update, "metrics": max(apart.values()), **told}


def files_of_both(words: str, inputs: dict[str, str], folder: Path, waits: int) -> dict[str, Any]:
    """The rows that a command writes, on the CPU and on the pretended device."""
    argv = [inputs.get(word, word) for word in words.split()]
    if (why := walked([*argv, "--output-dir", str(folder / "cpu"), "--device", "cpu"])) is not None:
        return {"stopped_on_the_cpu": why}
    with pretended() as state:
        why = walked([*argv, "--output-dir", str(folder / "cuda"), "--device", "cuda"])
    told: dict[str, Any] = {"operations": state.operations, "recorded_steps": len(RECORDED)}
    told |= {"waits": sum(state.waits.values()), "most": dict(state.waits.most_common(waits))}
    if why is not None:
        return {"stopped": why, **told}
    names = ("completions", "scores", "logprobs")
    [file] = [f"{name}.jsonl" for name in names if (folder / "cpu" / f"{name}.jsonl").exists()]
    rows = [[json.loads(line) for line in (folder / d / file).read_text().splitlines()] for d in ("cpu", "cuda")]
    return {"within": alike(*rows) and bool(rows[0]), "rows": len(rows[0]), **told}


def alike(found: Any, expected: Any) -> bool:
    """Whether two documents are the same but for the last digits of numbers."""
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-4)
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(alike(found[key], expected[key]) for key in found)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(alike, found, expected))
    return bool(found == expected)


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
    table |= {f"{method}, LoRA": (method, LORA) for method in METHODS} | VARIANTS
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for number, (name, (method, more)) in enumerate(table.items()):
        at = folder / str(number)
        found[name] = lambda m=method, o=more, at=at: on_both(m, o, inputs, at, start, waits)  # type: ignore[misc]
    for number, (name, told) in enumerate(FILES.items()):
        at = folder / f"files-{number}"
        found[name] = lambda words=told, at=at: files_of_both(words, inputs, at, waits)  # type: ignore[misc]
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
    good = all(
        part.get("within", "stopped" not in part) and "stopped_on_the_cpu" not in part for part in found.values()
    )
    print(json.dumps({"version": assent.__version__, "good": good, "parts": found, "cannot": CANNOT}, indent=1))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    assert STATE is not None
    main()
