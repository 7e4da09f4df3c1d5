"""Does a command that is killed at a random moment, and started again, end as if nothing had happened?

    python benchmarks/kills.py --results kills.json [--number 100]

Every stage, LoRA, two processes (replicated and sharded), a pipeline, an evaluation, and work in shards take turns, on
a model of a few thousand weights. Each command is killed (SIGKILL) at `--kills` moments that follow from its seed, and
then ends. What it ends with is compared, bit by bit, with what an undisturbed command ended with: weights or results,
and the logged figures without those of time and memory. Before and after each kill, every checkpoint is verified.

The seeds are 1, 2, 3 … The results' file keeps what was done, and the next call goes on with the seed after its last,
`--number` more kills. Prints one JSON document: kills, commands, runs that could not be used again, verified
checkpoints that were lost, bit-identical ends; the same for each kind of command; and every command with its moments,
in seconds of processor time. Exit status 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import assent  # first: it says how OpenMP's threads wait

# isort: split
from sandbox import platform_name

sys.path.insert(0, str(Path(__file__).parents[1]))
from assent.runs.files import write_json
from tests.support.kills import Killer, cells, read_results, summary, write_inputs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, help="file that keeps what was done")
    parser.add_argument("--number", type=int, default=100, help="kills of this call, at least")
    parser.add_argument("--kills", type=int, default=2, help="of each command, at most")
    parser.add_argument("--cells", nargs="+", help="only these kinds of commands, by the names in the results")
    args = parser.parse_args()
    path = Path(args.results)
    done = read_results(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["ASSENT_CACHE"] = str(folder / "cache")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        inputs = write_inputs(folder)
        chosen = [cell for cell in cells(inputs) if args.cells is None or cell.name in args.cells]
        if not chosen:
            parser.error(f"--cells: choose from {', '.join(cell.name for cell in cells(inputs))}")
        killer, kills = Killer(folder, inputs), 0
        while kills < args.number:
            seed = len(done) + 1
            found = killer.told(chosen[seed % len(chosen)], seed, kills=args.kills)
            kills += len(found.kills) or args.kills  # one that fails at once counts too, so that this ends
            done.append(asdict(found))
            write_json(path, {"commands": done})
            print(f"{seed}: {found.cell}: {'the same' if found.identical else found}", file=sys.stderr)
    names = sorted({one["cell"] for one in done})
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "version": assent.__version__,
        "machine": {"processor": platform_name(), "cores": os.cpu_count()},
        **summary(done),
        "by_kind": {name: summary([one for one in done if one["cell"] == name]) for name in names},
        "commands": done,
    }
    write_json(path, document)
    print(json.dumps(document, indent=1))
    total = summary(done)
    return int(total["identical_ends"] < total["commands"] or total["lost_checkpoints"] > 0)


if __name__ == "__main__":
    sys.exit(main())
