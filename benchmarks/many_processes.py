"""Is one update of every method that of one process, however many there are and whatever each of them holds?

    python benchmarks/many_processes.py [--seed 0]

Seven methods, all weights and LoRA, 1, 2 and 4 processes (gloo), replicated and sharded: each is one command, started
as torchrun starts it, on a Llama of 20,000 weights in float32. Prints one JSON document: for each combination the
largest difference of an entry of the update from that of one process, as a share of the tensor's largest entry; the
largest of all; and how many are below 1e-5. A method that samples draws tokens at cumulative probabilities; where a
random number lies within rounding of one, another number of processes may draw another token, and the update is
another one. `--seed` chooses the numbers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

import assent  # first: it says how OpenMP's threads wait

# isort: split
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.many_processes import METHODS, Group, arguments, differences, update_of, write_inputs

BOUND = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    with tempfile.TemporaryDirectory() as name:
        at = Path(name)
        inputs = write_inputs(at)
        start = load_file(at / "model" / "model.safetensors")
        table = list(itertools.product(METHODS, (False, True), ("replicate", "shard")))
        alone = [arguments(m, inputs, at / f"1-{m}-{a}", adapter=a, seed=seed) for m in METHODS for a in (False, True)]
        run(1, alone, at)
        found: dict[str, float] = {}
        for number in (1, 2, 4):
            ways = [way for way in table if number > 1 or way[2] == "replicate"]
            folders = [at / f"{number} {m} {a} {s}" for m, a, s in ways]
            commands = [
                [*arguments(m, inputs, folder, adapter=a, seed=seed), *(["--sharding", s] if number > 1 else [])]
                for (m, a, s), folder in zip(ways, folders, strict=True)
            ]
            run(number, commands, at)
            for (m, a, s), folder in zip(ways, folders, strict=True):
                before = {} if a or m == "reward" else start
                apart = differences(update_of(folder, before), update_of(at / f"1-{m}-{a}", before))
                found[f"{number} processes, {s}, {m}, {'LoRA' if a else 'all weights'}"] = max(apart.values())
    within = sum(value < BOUND for value in found.values())
    summary = {"version": assent.__version__, "seed": seed, "largest": max(found.values()), "bound": BOUND}
    print(json.dumps({**summary, "within": within, "of": len(found), "differences": found}, indent=1))


def run(number: int, commands: list[list[str]], folder: Path) -> None:
    group = Group(number, folder / f"logs {number}", commands)
    if any(group.ended()):
        sys.exit("\n".join(group.said()))


if __name__ == "__main__":
    main()
