"""Runs that are killed at random moments: is any unusable, is a verified checkpoint lost, do they end to the bit?

    PYTHONPATH=. python benchmarks/kills.py --kills 100 [--from-seed 1] [--out kills.jsonl]

Seeds are counted on from --from-seed until so many processes were killed. A seed says what runs (stages, adapters, two
processes, a pipeline, an evaluation, commands in shards: tests/support/kills.py), how often it is killed and when.
Seeds 1 to 20 are committed as seen (RESULTS.md); each line of --out is one seed's verdict. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import assent  # first, for the settings that it makes before torch is imported


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--from-seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    from tests.support.kills import Killer

    started, seed, kills = time.monotonic(), args.from_seed, 0
    scenarios: Counter[str] = Counter()
    faults: list[dict[str, object]] = []
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder) / "work")
        while kills < args.kills:
            verdict = killer.try_seed(seed)
            kills, seed, tried = kills + verdict.kills, seed + 1, tried + 1
            scenarios[verdict.scenario] += verdict.kills
            faults += [asdict(verdict)] if verdict.fault else []
            if args.out is not None:
                with args.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(verdict)) + "\n")
    print(
        json.dumps(
            {
                "assent": assent.__version__,
                "seeds": [args.from_seed, seed - 1],
                "runs": tried,
                "kills": kills,
                "ended_to_the_bit": tried - len(faults),
                "kills_by_scenario": dict(sorted(scenarios.items())),
                "faults": faults,
                "seconds": round(time.monotonic() - started),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
